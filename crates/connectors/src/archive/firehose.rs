//! The stream of the archive: an Amazon Data Firehose stream, which writes many records into one file.
//!
//! Records that are ready at the same time go out in one call. Each has its own answer, and only a record that
//! Firehose names an id for counts as taken.

use std::sync::Arc;

use aws_sdk_firehose::Client;
use aws_sdk_firehose::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_firehose::operation::put_record_batch::{PutRecordBatchError, PutRecordBatchOutput};
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{PutRecordBatchResponseEntry, Record as FirehoseRecord};
use futures_util::future::join_all;
use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
use learnink_webhook::error::service_code;
use learnink_webhook::group::Group;

use super::{ArchiveError, STREAM_VARIABLE};
use crate::calls::in_calls;

/// The largest record. Source: Amazon Data Firehose API reference, `Record`, `Data`.
pub(super) const LARGEST_RECORD_BYTES: usize = 1_024_000;

/// The largest call, before base64; AWS says 4 MiB. Source: Amazon Data Firehose API reference, `PutRecordBatch`.
const LARGEST_CALL_BYTES: usize = 4_000_000;

/// The most records of a call. Source: Amazon Data Firehose API reference, `PutRecordBatch`.
const MOST_RECORDS: usize = 500;

/// The longest name. Source: Amazon Data Firehose API reference, `PutRecordBatch`, `DeliveryStreamName`.
const LONGEST_NAME: usize = 64;

/// The stream. All clones share its calls.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    puts: Arc<Group<Vec<u8>, Result<(), ArchiveError>>>,
}

/// Puts lines on a stream.
#[derive(Debug, Clone)]
struct Sender {
    client: Client,
    name: Arc<str>,
}

impl Stream {
    /// The stream of this name.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when it cannot be a name, or `env` does not say how AWS is reached.
    pub(super) fn open(name: &str, env: &Env) -> Result<Self, ConfigError> {
        let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.len() > LONGEST_NAME || !name.bytes().all(is_of_a_name) {
            let problem =
                "it must be the name of a Firehose stream, of at most 64 letters, digits, `_`, `.` and `-`";
            return Err(ConfigError::unusable(STREAM_VARIABLE, problem));
        }
        let sender = Sender { client: Client::new(env.aws(STREAM_VARIABLE)?), name: name.into() };
        let puts = Group::new(move |lines| {
            let sender = sender.clone();
            async move { sender.put(lines).await }
        });
        Ok(Self { puts: Arc::new(puts) })
    }

    /// Puts a line on the stream. Success means that Firehose has it.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Stream`] otherwise; the record may be on the stream all the same.
    pub(super) async fn put(&self, line: Vec<u8>) -> Result<(), ArchiveError> {
        self.puts.ask(line).await.unwrap_or_else(|| Err(refused(UNSAID)))
    }
}

impl Sender {
    /// Puts lines on the stream, with as few calls as Firehose takes. One result for each, in order.
    async fn put(&self, lines: Vec<Vec<u8>>) -> Vec<Result<(), ArchiveError>> {
        join_all(calls(lines).into_iter().map(|call| self.put_with_one_call(call))).await.concat()
    }

    async fn put_with_one_call(&self, lines: Vec<Vec<u8>>) -> Vec<Result<(), ArchiveError>> {
        let count = lines.len();
        let request = self.client.put_record_batch().delivery_stream_name(&*self.name);
        let request = request.set_records(Some(lines.into_iter().map(record).collect()));
        match Box::pin(request.send()).await {
            Ok(output) => answers(&output, count),
            Err(error) => vec![Err(call_failed(&error)); count],
        }
    }
}

#[expect(clippy::expect_used, reason = "the one required field is set")]
fn record(line: Vec<u8>) -> FirehoseRecord {
    FirehoseRecord::builder().data(Blob::new(line)).build().expect("it has data")
}

/// The lines of each call that Firehose accepts, in order.
fn calls(lines: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    in_calls(lines, MOST_RECORDS, LARGEST_CALL_BYTES, Vec::len)
}

/// What is wrong if no record has an answer.
const UNSAID: &str = "Firehose's answer does not say which records it has";

/// What an answer says about each of the records. If it contradicts itself, it says nothing.
fn answers(output: &PutRecordBatchOutput, records: usize) -> Vec<Result<(), ArchiveError>> {
    let entries = output.request_responses();
    let failed = entries.iter().filter(|entry| !is_taken(entry)).count();
    let is_consistent = usize::try_from(output.failed_put_count()) == Ok(failed);
    if entries.len() != records || !is_consistent {
        return vec![Err(refused(UNSAID)); records];
    }
    let answer = |entry: &PutRecordBatchResponseEntry| {
        if is_taken(entry) { Ok(()) } else { Err(refused(meaning(entry.error_code()))) }
    };
    entries.iter().map(answer).collect()
}

fn is_taken(entry: &PutRecordBatchResponseEntry) -> bool {
    entry.error_code().is_none() && entry.record_id().is_some_and(|id| !id.is_empty())
}

fn call_failed(error: &SdkError<PutRecordBatchError>) -> ArchiveError {
    refused(match error {
        SdkError::ServiceError(failure) => meaning(failure.err().code()),
        SdkError::TimeoutError(_) => "Firehose did not answer in time".to_owned(),
        SdkError::ResponseError(_) => "Firehose's answer could not be read".to_owned(),
        _ => "Firehose could not be reached".to_owned(),
    })
}

/// What an error code means. Nothing of it is about a record, whose size was checked: all of it can be fixed or passes.
/// Source: Amazon Data Firehose API reference, `PutRecordBatch` and "Common Error Types".
fn meaning(code: Option<&str>) -> String {
    let code = code.and_then(service_code).unwrap_or("no code");
    match code {
        "ResourceNotFoundException" => {
            format!("Firehose does not know the stream ({code}); check {STREAM_VARIABLE}")
        }
        "AccessDeniedException" => {
            format!(
                "access is denied ({code}); the function's role needs firehose:PutRecordBatch on the stream"
            )
        }
        "ServiceUnavailableException" | "LimitExceededException" | "ThrottlingException" => {
            format!("Firehose takes no more at the moment ({code})")
        }
        _ => format!("Firehose answered {code}"),
    }
}

fn refused(problem: impl Into<String>) -> ArchiveError {
    ArchiveError::Stream { problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_no_more_records_and_bytes_than_firehose_takes() {
        let sizes = |lines: Vec<usize>| {
            let calls = calls(lines.into_iter().map(|bytes| vec![b'x'; bytes]).collect());
            calls.iter().map(|call| call.iter().map(Vec::len).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(vec![]), Vec::<Vec<usize>>::new());
        assert_eq!(sizes(vec![1, 2, 3]), [vec![1, 2, 3]]);
        let largest = LARGEST_RECORD_BYTES;
        assert_eq!(sizes(vec![largest; 5]), [vec![largest; 3], vec![largest; 2]]);
        assert_eq!(sizes(vec![1; 501]), [vec![1; 500], vec![1]]);
    }

    fn taken() -> PutRecordBatchResponseEntry {
        PutRecordBatchResponseEntry::builder().record_id("record-1").build()
    }

    fn failed(code: &str) -> PutRecordBatchResponseEntry {
        PutRecordBatchResponseEntry::builder().error_code(code).error_message("+254705408079").build()
    }

    /// The answers, of which each is `None` if the record was taken.
    fn said(failed_put_count: i32, entries: Vec<PutRecordBatchResponseEntry>) -> Vec<Option<String>> {
        let output = PutRecordBatchOutput::builder()
            .failed_put_count(failed_put_count)
            .set_request_responses(Some(entries))
            .build()
            .unwrap();
        answers(&output, 2).into_iter().map(|answer| answer.err().map(|error| error.to_string())).collect()
    }

    #[test]
    fn each_record_has_its_own_answer() {
        assert_eq!(said(0, vec![taken(), taken()]), [None, None]);
        let busy = "the archive's stream did not take the record: Firehose takes no more at the moment \
                    (ServiceUnavailableException)";
        let answers = said(1, vec![failed("ServiceUnavailableException"), taken()]);
        assert_eq!(answers, [Some(busy.to_owned()), None]);
        // Its own text may quote the record.
        assert!(
            !format!("{:?}", said(2, vec![failed("+254705408079"), failed("Internal")])).contains("2547")
        );
    }

    #[test]
    fn an_answer_that_contradicts_itself_takes_no_record() {
        let unsaid = "the archive's stream did not take the record: Firehose's answer does not say which records it has";
        let nothing = || PutRecordBatchResponseEntry::builder().build();
        let both = || PutRecordBatchResponseEntry::builder().record_id("r").error_code("Internal").build();
        for (count, entries) in [
            (0, vec![]),
            (0, vec![taken()]),
            (0, vec![taken(); 3]),
            (1, vec![taken(), taken()]),
            (0, vec![failed("Internal"), taken()]),
            (-1, vec![taken(), taken()]),
        ] {
            assert_eq!(said(count, entries), [Some(unsaid.to_owned()), Some(unsaid.to_owned())]);
        }
        assert!(
            said(1, vec![nothing(), taken()])[0].is_some() && said(1, vec![both(), taken()])[0].is_some()
        );
    }
}
