//! `learnink forget`, on the dead-letter queue.

use std::collections::BTreeSet;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use learnink_consumer::ledger::{EntryId, payload_sha256};
use learnink_webhook::message;

use super::OpenQueues;
use super::letter::{attributes, decode, redriven_attributes};
use super::pass::{PassEnd, Taken, pass};
use super::queue::{Next, Outgoing, receipt, sqs_id};
use crate::forget::found::{Found, Webhook};
use crate::forget::learner::{Items, Learner, Part};
use crate::question::Interrupt;

/// Letters about a learner, by the names that SQS gave them, and how many letters another receiver hides.
pub(crate) async fn search(queues: &OpenQueues, learner: &Learner) -> anyhow::Result<(Found<String>, usize)> {
    let mut found = Found::default();
    let unseen = queues.letters.look(usize::MAX, async |messages| {
        for message in &messages {
            let id = sqs_id(message);
            let decoded = decode(message).ok();
            let webhook = Webhook {
                place: &id,
                message_id: decoded.as_ref().map(|webhook| webhook.id.as_str()),
                received_at: decoded.as_ref().map(|webhook| webhook.received_at),
            };
            let body = body(message, decoded.as_ref());
            found.add(id.clone(), webhook, body, learner.find(body));
        }
        Ok(Next::GoOn)
    });
    let unseen = unseen.await?;
    Ok((found, unseen))
}

/// The webhook's body; of what no receiver wrote, the message's.
fn body<'a>(message: &'a Message, webhook: Option<&'a message::Message>) -> &'a [u8] {
    webhook.map_or_else(|| message.body().unwrap_or_default().as_bytes(), |webhook| &webhook.body)
}

/// Deletes the letters that are about the learner alone, and puts a redacted one in the place of each other. Returns what
/// is left, with the reason.
pub(crate) async fn erase(
    queues: &OpenQueues,
    found: &Found<String>,
    learner: &Learner,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<String>> {
    let mut wanted: BTreeSet<_> = found.whole.iter().chain(&found.items).cloned().collect();
    let end = pass(&queues.letters, &mut wanted, interrupt, async |messages| {
        let mut taken = Taken::default();
        for message in messages {
            let (id, receipt) = (sqs_id(&message), receipt(&message));
            let erased = async {
                redact(queues, &message, learner).await?;
                queues.letters.delete(&[receipt]).await
            };
            match erased.await {
                Ok(()) => taken.done.push(id),
                Err(error) => taken.error = Some(error),
            }
        }
        taken
    })
    .await?;
    let why = match end {
        PassEnd::All => return Ok(Vec::new()),
        PassEnd::Gone => "it is not there any more, or somebody else is looking at it".to_owned(),
        PassEnd::Interrupted => "interrupted".to_owned(),
        PassEnd::Failed(error) => format!("{error:#}"),
    };
    Ok(wanted.into_iter().map(|id| format!("dead letter {id}: {why}")).collect())
}

/// Sends a letter without the learner, if it is about others too.
async fn redact(queues: &OpenQueues, message: &Message, learner: &Learner) -> anyhow::Result<()> {
    let decoded = decode(message);
    let Part::Items(Items { redacted, .. }) = learner.find(body(message, decoded.as_ref().ok())).part else {
        return Ok(());
    };
    let was_moved = message
        .attributes
        .as_ref()
        .is_some_and(|known| known.contains_key(&MessageSystemAttributeName::DeadLetterQueueSourceArn));
    // What a letter that SQS moved says of a reason is from before a redrive.
    let mut attributes = if was_moved { redriven_attributes(message) } else { attributes(message) };
    let body = match decoded {
        Ok(webhook) => {
            let (id, before) = (EntryId::of(&webhook), payload_sha256(&webhook.body));
            // First, so that a run that ends in between goes on with the letter.
            queues.ledger.replace_payload(&id, &before, &payload_sha256(&redacted)).await?;
            let encoded = message::Message { body: redacted, ..webhook }.encode()?;
            attributes.remove(message::attribute::ENCODING);
            for own in encoded.attributes {
                let value = MessageAttributeValue::builder().data_type(own.data_type).string_value(own.value);
                attributes.insert(own.name.to_owned(), value.build()?);
            }
            encoded.body
        }
        Err(_) => String::from_utf8_lossy(&redacted).into_owned(),
    };
    queues.letters.send(Outgoing { body, attributes }).await
}
