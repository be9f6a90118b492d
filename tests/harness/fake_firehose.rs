//! An Amazon Data Firehose that fails on purpose, and delivers what it took as Firehose does: many records in one file.
//!
//! It takes `PutRecordBatch` with AWS's limits, and no other call. ministack has a Firehose too, which never fails and
//! writes each record as a file of its own.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_config::SdkConfig;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use learnink_local::sdk_config;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The fate of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFate {
    /// All records are taken.
    Taken,
    /// All records are taken, each twice.
    TakenTwice,
    /// Every second record is refused with `ServiceUnavailableException`, from the first on.
    PartlyTaken,
    /// The call is refused with this status and error code.
    Failed(u16, &'static str),
    /// All records are taken, but the answer is an error.
    TakenThenFailed(u16, &'static str),
    /// The answer is a 200 with a page that is not AWS's.
    Page,
    /// The answer is a 200 that counts no failure and names no record.
    Unsaid,
}

/// Decides the fate of each call.
type Destiny = Box<dyn FnMut() -> StreamFate + Send>;

struct Stream {
    destiny: Destiny,
    calls: Vec<usize>,
    taken: Vec<Vec<u8>>,
    undelivered: usize,
}

/// A running Firehose, with one stream.
#[derive(Clone)]
pub struct FakeFirehose {
    endpoint: String,
    stream: Arc<Mutex<Stream>>,
}

impl FakeFirehose {
    /// The name of its stream.
    pub const STREAM: &'static str = "archive";

    /// Starts one that takes every record.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = format!("http://{}", listener.local_addr().expect("a listener has an address"));
        let stream = Stream {
            destiny: Box::new(|| StreamFate::Taken),
            calls: Vec::new(),
            taken: Vec::new(),
            undelivered: 0,
        };
        let firehose = Self { endpoint, stream: Arc::new(Mutex::new(stream)) };
        let router =
            Router::new().fallback(put).layer(DefaultBodyLimit::disable()).with_state(firehose.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        firehose
    }

    /// How to reach it.
    pub fn sdk_config(&self) -> SdkConfig {
        sdk_config(&self.endpoint)
    }

    /// Decides the fate of each call from now on.
    pub fn decide(&self, destiny: impl FnMut() -> StreamFate + Send + 'static) {
        self.lock().destiny = Box::new(destiny);
    }

    /// How many records each call had.
    pub fn calls(&self) -> Vec<usize> {
        self.lock().calls.clone()
    }

    /// The records that it took, in order.
    pub fn taken(&self) -> Vec<Vec<u8>> {
        self.lock().taken.clone()
    }

    /// The content of the file that it writes now, with all records that it took since the last one; `None` if there are
    /// none.
    pub fn deliver(&self) -> Option<Vec<u8>> {
        let mut stream = self.lock();
        let records = stream.taken.get(stream.undelivered..).unwrap_or_default().concat();
        stream.undelivered = stream.taken.len();
        (!records.is_empty()).then(|| gzip(&records))
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's file with these lines.
pub fn gzip(lines: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(lines).and_then(|()| encoder.finish()).expect("a Vec takes every byte")
}

/// The name below an archive's URL of a file that is delivered on this day, such as `2026/03/01`.
pub fn file_name(day: &str, number: usize) -> String {
    let stream = FakeFirehose::STREAM;
    format!("layout=stream/{day}/{stream}-1-{}-12-00-00-{number:08x}.jsonl.gz", day.replace('/', "-"))
}

/// Answers one call.
async fn put(State(firehose): State<FakeFirehose>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let error = |status, code: &str| {
        let status = StatusCode::from_u16(status).expect("it is a status");
        (status, json!({ "__type": code, "message": "the stand-in's own text" }).to_string())
    };
    if headers.get("x-amz-target").is_none_or(|target| target != "Firehose_20150804.PutRecordBatch") {
        return error(400, "UnknownOperationException");
    }
    let request: Value = serde_json::from_slice(&body).expect("a call is JSON");
    if request.get("DeliveryStreamName").is_none_or(|name| name != FakeFirehose::STREAM) {
        return error(400, "ResourceNotFoundException");
    }
    let records = request.get("Records").and_then(Value::as_array).cloned().unwrap_or_default();
    let data = |record: &Value| record.get("Data").and_then(Value::as_str).unwrap_or_default().to_owned();
    let records: Vec<Vec<u8>> =
        records.iter().map(|record| BASE64.decode(data(record)).expect("data is base64")).collect();
    let bytes: usize = records.iter().map(Vec::len).sum();
    let is_too_large = records.iter().any(|record| record.len() > 1_024_000) || bytes > 4 << 20;
    if records.is_empty() || records.len() > 500 || is_too_large {
        return error(400, "InvalidArgumentException");
    }
    let mut stream = firehose.lock();
    stream.calls.push(records.len());
    let fate = (stream.destiny)();
    let refused = |index: usize| fate == StreamFate::PartlyTaken && index.is_multiple_of(2);
    match fate {
        StreamFate::Failed(status, code) => return error(status, code),
        StreamFate::Page => return (StatusCode::OK, "<html>Sorry</html>".to_owned()),
        StreamFate::Unsaid => {
            return (StatusCode::OK, r#"{"FailedPutCount":0,"RequestResponses":[]}"#.to_owned());
        }
        StreamFate::Taken
        | StreamFate::TakenTwice
        | StreamFate::PartlyTaken
        | StreamFate::TakenThenFailed(..) => {}
    }
    let mut responses = Vec::new();
    for (index, record) in records.into_iter().enumerate() {
        if refused(index) {
            let code = "ServiceUnavailableException";
            responses.push(json!({ "ErrorCode": code, "ErrorMessage": "Slow down." }));
            continue;
        }
        if fate == StreamFate::TakenTwice {
            stream.taken.push(record.clone());
        }
        stream.taken.push(record);
        responses.push(json!({ "RecordId": format!("record-{}", stream.taken.len()) }));
    }
    if let StreamFate::TakenThenFailed(status, code) = fate {
        return error(status, code);
    }
    let failed = responses.iter().filter(|response| response["RecordId"].is_null()).count();
    let answer = json!({ "FailedPutCount": failed, "Encrypted": true, "RequestResponses": responses });
    (StatusCode::OK, answer.to_string())
}
