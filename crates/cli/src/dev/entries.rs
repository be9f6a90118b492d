//! The pipeline's observations, as the history keeps them.

use std::time::Duration;

use learnink_console::history::{
    Call, Content, Entry, HandlerRun, QueueCall, QueueName, Record, Request, RequestFacts,
};
use learnink_consumer::{HandlerReport, RecordReport};
use learnink_local::pipeline::DEAD_LETTER_QUEUE;
use learnink_local::{AnsweredBy, Observation, Received, sqs};
use learnink_receiver::{Receipt, SecretSlot};
use learnink_webhook::MessageId;

/// What the history keeps of an observation.
pub(super) fn entry(observation: &Observation) -> Entry {
    match observation {
        Observation::Received(received) => Entry::Request(Box::new(request(received))),
        Observation::Consumed(record) => Entry::Record(consumed(record)),
        Observation::Queue(call) => Entry::Queue(queue_call(call)),
    }
}

fn request(received: &Received) -> Request {
    let Received { at, took, parts, body, status, answered_by } = received;
    let claimed = parts.headers.get("svix-id").and_then(|id| id.to_str().ok());
    let claimed = claimed.and_then(|id| MessageId::parse(id).ok()).map(|id| id.to_string());
    let facts = RequestFacts {
        at: *at,
        took: *took,
        status: *status,
        injected: None,
        message_id: None,
        claimed_message_id: None,
        event_type: None,
        outcome: None,
        reason: None,
        detail: None,
        secret: None,
        has_unknown_signature: false,
        verify_took: Duration::ZERO,
        enqueue_took: None,
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
    };
    let facts = match answered_by {
        AnsweredBy::Receiver(receipt) => of_receipt(receipt, facts),
        AnsweredBy::Gateway => RequestFacts {
            outcome: Some("not_passed_on".to_owned()),
            detail: Some("API Gateway does not pass such a request on".to_owned()),
            ..facts
        },
        AnsweredBy::Fault(fault) => {
            RequestFacts { injected: Some(fault.to_string()), claimed_message_id: claimed, ..facts }
        }
    };
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let content = Content { headers: parts.headers.iter().map(header).collect(), body: body.to_vec() };
    Request { facts, content }
}

fn of_receipt(receipt: &Receipt, facts: RequestFacts) -> RequestFacts {
    RequestFacts {
        message_id: receipt.message_id.clone(),
        claimed_message_id: receipt.claimed_message_id.clone(),
        event_type: receipt.event_type.clone(),
        outcome: Some(receipt.outcome.name().to_owned()),
        reason: receipt.outcome.reason().map(str::to_owned),
        detail: receipt.outcome.detail(),
        secret: receipt.secret.map(SecretSlot::name).map(str::to_owned),
        has_unknown_signature: receipt.has_unknown_signature,
        verify_took: receipt.verify_took,
        enqueue_took: receipt.enqueue_took,
        ..facts
    }
}

fn consumed(record: &RecordReport) -> Record {
    let handler = |run: &HandlerReport| HandlerRun {
        name: run.name.to_owned(),
        ended: run.ended.name().to_owned(),
        detail: run.ended.error().map(ToString::to_string),
        took: run.took,
    };
    Record {
        at: record.ended_at,
        message_id: record.message_id.clone(),
        sqs_message_id: record.sqs_message_id.clone(),
        receive_count: record.receive_count,
        outcome: record.outcome.name().to_owned(),
        reason: record.failure.as_ref().map(|failure| failure.reason.clone()),
        handler: record.failure.as_ref().and_then(|failure| failure.handler).map(str::to_owned),
        handlers: record.handlers.iter().map(handler).collect(),
        comes_back_in: record.retry_in,
    }
}

fn queue_call(call: &sqs::QueueCall) -> QueueCall {
    let sqs::QueueCall { at, queue, call, message_id, sqs_message_id } = call;
    QueueCall {
        at: *at,
        queue: if queue == DEAD_LETTER_QUEUE { QueueName::DeadLetters } else { QueueName::Messages },
        call: match call {
            sqs::Call::Sent => Call::Sent,
            sqs::Call::Received => Call::Received,
            sqs::Call::Deleted => Call::Deleted,
            sqs::Call::Hidden { for_s } => Call::Hidden { for_s: *for_s },
        },
        message_id: message_id.clone(),
        sqs_message_id: sqs_message_id.clone(),
    }
}
