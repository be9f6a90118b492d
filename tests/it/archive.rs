//! A month of records, through the real consumer into an archive, and read from it with `learnink archive`.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use aws_lambda_events::sqs::SqsMessage;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::archive::{self, Archive, Name, Record, RecordFile, Selection};
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, ministack_endpoint};
use learnink_tests::fake_firehose::{FakeFirehose, StreamFate, file_name, gzip};
use learnink_tests::root;
use learnink_tests::signing::{self, OTHER_SECRET, SECRET};
use learnink_webhook::message::attribute;
use serde_json::{Value, json};

use crate::laptop::started;
use crate::records::{batch, record};

/// How many webhooks LearnInk sends in that month.
const COUNT: i64 = 300;

/// The month, in seconds since the epoch: March 2026.
const MARCH_S: std::ops::Range<i64> = 1_772_323_200..1_775_001_600;

/// The notifications that LearnInk sent on the tenth.
const CSV: &str = r#"id,type,api_version,occurred_at,received_at,data
msg_210,notifications.sent,2022-11-15,2026-02-27T09:58:58.233Z,2026-03-10T07:12:00.042Z,"{""notifications"":[{""phone_number"":""+254705408079"",""title"":""Hi, \""Mary\""!""}]}"
msg_207,notifications.sent,2022-11-15,2026-02-27T09:58:58.233Z,2026-03-10T14:38:24.042Z,"{""notifications"":[{""phone_number"":""+254705408079"",""title"":""Hi, \""Mary\""!""}]}"
msg_204,notifications.sent,2022-11-15,2026-02-27T09:58:58.233Z,2026-03-10T22:04:48.042Z,"{""notifications"":[{""phone_number"":""+254705408079"",""title"":""Hi, \""Mary\""!""}]}"
"#;

/// An archive, and access to its stored bytes.
struct Place {
    archive: Archive,
    env: Env,
    url: String,
    variables: Vec<(&'static str, String)>,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn in_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("archive").to_str().unwrap());
        Self::at(url, Vec::new(), Some(folder))
    }

    async fn in_s3(bucket: &str) -> Self {
        learnink_aws::install_tls_provider();
        let endpoint = ministack_endpoint();
        let created = http().put(format!("{endpoint}/{bucket}")).send().await.unwrap();
        assert!(created.status().is_success(), "{}", created.status());
        let variables = vec![
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ];
        Self::at(format!("s3://{bucket}/a/prefix"), variables, None)
    }

    fn at(url: String, variables: Vec<(&'static str, String)>, folder: Option<tempfile::TempDir>) -> Self {
        let env = Env::of([("LEARNINK_ARCHIVE", &*url)]).with_variables(variables.clone());
        let archive = Archive::open(&url, &env).unwrap();
        Self { archive, env, url, variables, _folder: folder }
    }

    /// The environment of a consumer that puts records on this stream, which writes here.
    fn env_with(&self, firehose: &FakeFirehose) -> Env {
        on_stream(&self.env, firehose)
    }

    /// The stream writes what it took, on this day.
    async fn deliver(&self, firehose: &FakeFirehose, day: &str, number: usize) {
        if let Some(file) = firehose.deliver() {
            self.put(&file_name(day, number), file).await;
        }
    }

    /// All files of the stream, by name, with their lines.
    async fn files(&self) -> Vec<(Name, RecordFile)> {
        let mut files = Vec::new();
        for name in self.archive.list(&Selection::default()).await.unwrap().files {
            let file = self.archive.read_file(&name).await.unwrap();
            files.push((name, file));
        }
        files
    }

    async fn overwrite(&self, name: &Name, bytes: Vec<u8>) {
        self.put(name.as_str(), bytes).await;
    }

    /// Puts an object there that is not the product's; a folder of the file system if its name ends like a
    /// folder's.
    async fn put(&self, name: &str, bytes: Vec<u8>) {
        if let Some(folder) = self.url.strip_prefix("file://") {
            let path = Path::new(folder).join(name);
            if name.is_empty() || name.ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        } else {
            let key = self.url.strip_prefix("s3://").unwrap();
            let url = format!("{}/{key}/{name}", ministack_endpoint());
            assert!(http().put(url).body(bytes).send().await.unwrap().status().is_success());
        }
    }

    /// All stored objects, by name.
    async fn kept(&self) -> Vec<(Name, Vec<u8>)> {
        let mut kept = Vec::new();
        for name in self.archive.list(&Selection::default()).await.unwrap().records {
            let bytes = self.archive.read(&name).await.unwrap();
            kept.push((name, bytes.to_vec()));
        }
        kept
    }

    /// `learnink archive`, as a person types it.
    async fn learnink(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("learnink"));
        command.arg("archive").args(arguments).args(["--archive", &self.url]).current_dir(root());
        command.env_remove("AWS_ENDPOINT_URL_S3").envs(self.variables.iter().cloned());
        command.env("LEARNINK_SIGNING_SECRET", format!("{SECRET} {OTHER_SECRET}"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// The environment of a consumer that puts its records on a stream.
pub(crate) fn on_stream(env: &Env, firehose: &FakeFirehose) -> Env {
    let config = firehose.sdk_config();
    let stream = [("LEARNINK_ARCHIVE_STREAM", FakeFirehose::STREAM.to_owned())];
    env.clone().with_variables(stream).with_aws(move || Ok(config.clone()))
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A consumer with only the archive's handler, and an empty ledger.
struct Stand {
    _engine: Engine,
    consumer: Consumer,
    invocations: i64,
}

impl Stand {
    async fn start(env: &Env) -> Self {
        let engine = Engine::embedded().await;
        let queues = engine.queues(600, 7).await;
        let ledger = DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await);
        let sqs = SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
        let consumer = Consumer::new(archive::router(env).unwrap(), ledger, sqs, 7, || 0.5);
        Self { _engine: engine, consumer, invocations: 0 }
    }

    /// Handles the records, ten at a time, after the end of the month.
    async fn consume(&mut self, records: &[SqsMessage]) -> Vec<Outcome> {
        self.consume_from(MARCH_S.end, records).await
    }

    /// Handles the records, ten at a time, some time after `now_s`.
    async fn consume_from(&mut self, now_s: i64, records: &[SqsMessage]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for records in records.chunks(10) {
            self.invocations += 1;
            let now = Timestamp::from_second(now_s + self.invocations * 60).unwrap();
            let invocation = Invocation::new(self.invocations.to_string(), now, Duration::from_secs(30));
            let report = self.consumer.consume(&batch(records.to_vec()), &invocation).await;
            outcomes.extend(report.records.iter().map(|record| record.outcome));
        }
        outcomes
    }
}

fn received_at_s(number: i64) -> i64 {
    MARCH_S.start + number * (MARCH_S.end - MARCH_S.start) / COUNT
}

/// The id of one webhook of the month. The order in which they are received is not that of their ids.
fn id(number: i64) -> String {
    format!("msg_{:03}", COUNT - number)
}

/// One webhook of the month, as the receiver puts it on the queue; posted again `later_s` seconds after.
/// LearnInk's secret is rotated in the middle of the month.
fn webhook(number: i64, later_s: i64) -> SqsMessage {
    let body = if number % 3 == 0 {
        json!({
            "object": "event",
            "type": "notifications.sent",
            "api_version": "2022-11-15",
            "data": { "notifications": [{ "title": "Hi, \"Mary\"!", "phone_number": "+254705408079" }] },
            "timestamp": "2026-02-27T09:58:58.233Z",
        })
        .to_string()
    } else {
        started(&format!("learner-{number}"), "c", "2026-02-27T09:58:58.233Z")
    };
    let secret = if number < COUNT / 2 { OTHER_SECRET } else { SECRET };
    let received_at_s = received_at_s(number) + later_s;
    let [_, (_, signed_at), (_, signature)] =
        signing::headers(secret, &id(number), received_at_s - 1, body.as_bytes());
    let mut record = record(&format!("sqs-{number}-{later_s}"), &id(number), body);
    for (name, value) in [
        (attribute::TIMESTAMP, signed_at),
        (attribute::SIGNATURE, signature),
        (attribute::RECEIVED_AT, format!("{received_at_s}042")),
    ] {
        record.message_attributes.get_mut(name).unwrap().string_value = Some(value);
    }
    record
}

/// The month, in a random order of delivery.
fn month(later_s: i64) -> Vec<SqsMessage> {
    (0..COUNT).map(|number| webhook(number * 7 % COUNT, later_s)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// All records of [`month`] are proven, and those of three days exported, in order.
async fn a_whole_month_is_proven_and_three_days_are_exported(place: &Place) {
    let verified = place.learnink(&["verify"]).await;
    let said = (text(&verified.stdout), text(&verified.stderr), verified.status.code());
    assert_eq!(said, ("300 records, all signed by LearnInk\n".to_owned(), String::new(), Some(0)));

    // The days of their receipt, not those of the files.
    let exported = place.learnink(&["export", "--from", "2026-03-10", "--to", "2026-03-12"]).await;
    assert_eq!(
        (text(&exported.stderr), exported.status.code()),
        ("29 records exported\n".to_owned(), Some(0))
    );
    let days = "2026-03-10T00:00:00Z".parse::<Timestamp>().unwrap()
        .."2026-03-13T00:00:00Z".parse::<Timestamp>().unwrap();
    let is_in_range = |number: &i64| days.contains(&Timestamp::from_second(received_at_s(*number)).unwrap());
    assert_eq!(exported_ids(&exported), (0..COUNT).filter(is_in_range).map(id).collect::<Vec<_>>());
}

/// A month is stored, proven and exported, and every change to it is detected.
async fn a_month_is_kept_and_proven(place: Place) {
    let outcomes = Stand::start(&place.env).await.consume(&month(0)).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Processed), "{outcomes:?}");
    let kept = place.kept().await;
    assert_eq!(kept.len(), 300);

    a_whole_month_is_proven_and_three_days_are_exported(&place).await;

    let arguments = ["export", "--from", "2026-03-10", "--to", "2026-03-10", "--type", "notifications.sent"];
    let csv = place.learnink(&[&arguments[..], &["--format", "csv"]].concat()).await;
    assert_eq!(text(&csv.stdout).replace("\r\n", "\n"), format!("\u{feff}{CSV}"));

    // One byte of one body, in a record that is otherwise well-formed.
    let (name, bytes) = &kept[123];
    let mut record = Record::decode(bytes).unwrap();
    let at = record.body.windows(6).position(|window| window == b"+25470").unwrap();
    record.body[at + 1] = b'3';
    place.overwrite(name, record.encode()).await;
    // One bit of two stored objects: in gzip's header, where gzip itself would not notice it, and in the
    // compressed data.
    let (header, content) = (&kept[124], &kept[125]);
    for ((flipped, bytes), at) in [(header, 4), (content, content.1.len() / 2)] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        place.overwrite(flipped, bytes).await;
    }
    let verified = place.learnink(&["verify"]).await;
    let expected = format!(
        "{name}: no signature matches\n{}: it is not gzip, or damaged\n{}: it is not gzip, or damaged\n\
         300 records, 3 bad\n",
        header.0, content.0
    );
    assert_eq!(text(&verified.stdout), expected);
    assert_eq!((text(&verified.stderr), verified.status.code()), (String::new(), Some(1)));
    // The others can be proven without them.
    let day = name.day().unwrap();
    assert!([header, content].iter().all(|(name, _)| name.day() == Some(day)));
    let (before, after) = (day.yesterday().unwrap().to_string(), day.tomorrow().unwrap().to_string());
    for days in [["2026-03-01", &before], [&after, "2026-03-31"]] {
        let verified = place.learnink(&["verify", "--from", days[0], "--to", days[1]]).await;
        assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stdout));
    }
}

#[tokio::test]
async fn a_month_in_a_folder_is_kept_and_proven() {
    a_month_is_kept_and_proven(Place::in_folder()).await;
}

#[tokio::test]
async fn a_month_in_s3_is_kept_and_proven() {
    a_month_is_kept_and_proven(Place::in_s3("month").await).await;
}

/// A redelivery, by SQS or by the sender, and with any state of the ledger.
async fn a_second_delivery_writes_nothing(place: Place) {
    let mut stand = Stand::start(&place.env).await;
    stand.consume(&month(0)[..50]).await;
    let kept = place.kept().await;
    assert_eq!(kept.len(), 50);

    let outcomes = stand.consume(&month(0)[..50]).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Duplicate), "{outcomes:?}");
    // With another ledger, the handler runs again: for a redelivery, and for a message that the sender posts
    // again.
    for later_s in [0, 60] {
        let outcomes = Stand::start(&place.env).await.consume(&month(later_s)[..50]).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Processed), "{outcomes:?}");
    }
    assert!(place.kept().await == kept);
}

#[tokio::test]
async fn a_second_delivery_writes_nothing_to_a_folder() {
    a_second_delivery_writes_nothing(Place::in_folder()).await;
}

/// It also shows that ministack respects `If-None-Match`, without which the second write would replace the first.
#[tokio::test]
async fn a_second_delivery_writes_nothing_to_s3() {
    a_second_delivery_writes_nothing(Place::in_s3("twice").await).await;
}

/// Objects that S3's console, an inventory, macOS and people leave there.
async fn what_is_no_record_is_not_taken_for_one(place: Place) {
    Stand::start(&place.env).await.consume(&month(0)[..10]).await;
    for folder in
        ["", "user.course.started/", "user.course.started/2026/", "user.course.started/2026/03/01/", "new/"]
    {
        place.put(folder, Vec::new()).await;
    }
    place.put("user.course.started/2026/03/02/empty", Vec::new()).await;
    let verified = place.learnink(&["verify"]).await;
    let said = (text(&verified.stdout), text(&verified.stderr), verified.status.code());
    assert_eq!(said, ("10 records, all signed by LearnInk\n".to_owned(), String::new(), Some(0)));

    place.put("README.txt", b"ours".to_vec()).await;
    let verified = place.learnink(&["verify"]).await;
    let one = "10 records, all signed by LearnInk\n1 other object is not a record and was not looked at: README.txt\n";
    assert_eq!((text(&verified.stdout).as_str(), verified.status.code()), (one, Some(0)));
    place.put("user.course.started/2026/03/02/.DS_Store", b"\0\0\0\x01Bud1".to_vec()).await;
    let verified = place.learnink(&["verify"]).await;
    assert!(
        text(&verified.stdout)
            .ends_with("2 other objects are not records and were not looked at, such as README.txt\n")
    );
    let exported = place.learnink(&["export", "--from", "1900-01-01", "--to", "2100-12-31"]).await;
    assert_eq!((text(&exported.stderr).as_str(), exported.status.code()), ("10 records exported\n", Some(0)));

    // A record that was emptied is not a folder.
    let (emptied, _) = place.kept().await.remove(0);
    place.overwrite(&emptied, Vec::new()).await;
    let verified = place.learnink(&["verify"]).await;
    assert!(
        text(&verified.stdout)
            .starts_with(&format!("{emptied}: it is not gzip, or damaged\n10 records, 1 bad\n"))
    );
    assert_eq!(verified.status.code(), Some(1));
}

#[tokio::test]
async fn what_is_no_record_in_a_folder_is_not_taken_for_one() {
    what_is_no_record_is_not_taken_for_one(Place::in_folder()).await;
}

#[tokio::test]
async fn what_is_no_record_in_s3_is_not_taken_for_one() {
    what_is_no_record_is_not_taken_for_one(Place::in_s3("foreign").await).await;
}

#[tokio::test]
async fn an_export_is_made_though_nothing_can_be_said_beside_it() {
    let place = Place::in_folder();
    Stand::start(&place.env).await.consume(&month(0)[..10]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut export = Command::new(binary("learnink"));
    export.args(["archive", "export", "--archive", &place.url, "--output"]).arg(file.path());
    export.stderr(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let status = tokio::task::spawn_blocking(move || export.status().unwrap()).await.unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(file.path()).unwrap().lines().count(), 10);
}

#[tokio::test]
async fn a_url_without_its_prefix_says_what_is_there() {
    let place = Place::in_folder();
    Stand::start(&place.env).await.consume(&month(0)[..10]).await;
    let above = place.url.strip_suffix("/archive").unwrap();
    for command in ["verify", "export"] {
        let mut verify = Command::new(binary("learnink"));
        verify.args(["archive", command, "--archive", above]).env("LEARNINK_SIGNING_SECRET", SECRET);
        let output = tokio::task::spawn_blocking(move || verify.output().unwrap()).await.unwrap();
        let said = text(&output.stderr);
        assert!(said.contains("; the 10 objects there, such as archive/"), "{said}");
        assert!(said.ends_with("are not records: is a part of the URL missing?\n"), "{said}");
    }
}

#[tokio::test]
async fn what_keeps_an_archive_from_being_read_is_said() {
    let place = Place::in_folder();
    let empty = place.learnink(&["verify"]).await;
    assert_eq!(empty.status.code(), Some(1));
    assert_eq!(text(&empty.stderr), format!("error: there is nothing to verify in {}\n", place.url));
    let nothing = place.learnink(&["export", "--from", "2026-03-01", "--to", "2026-03-01"]).await;
    let expected =
        format!("error: there is nothing to export in {} from 2026-03-01 to 2026-03-01\n", place.url);
    assert_eq!(
        (text(&nothing.stdout), text(&nothing.stderr), nothing.status.code()),
        (String::new(), expected, Some(1))
    );
    let backwards = place.learnink(&["export", "--from", "2026-03-02", "--to", "2026-03-01"]).await;
    assert_eq!(text(&backwards.stderr), "error: --from 2026-03-02 is after --to 2026-03-01\n");
}

#[tokio::test]
async fn an_export_goes_to_a_file_that_others_cannot_read() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::in_folder();
    Stand::start(&place.env).await.consume(&[webhook(0, 0), webhook(1, 0)]).await;
    let (broken, _) = place.kept().await.remove(0);
    place.overwrite(&broken, b"no gzip".to_vec()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.jsonl");
    let output = ["--output", file.to_str().unwrap()];
    let days = ["export", "--from", "2026-03-01", "--to", "2026-03-31"];
    let exported = place.learnink(&[&days[..], &output].concat()).await;
    assert_eq!(exported.status.code(), Some(1));
    let said = format!("{broken}: it is not gzip, or damaged\n1 record exported, 1 unreadable\n");
    assert_eq!(text(&exported.stderr), said);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// How many webhooks are in one file of the stream.
const IN_A_FILE: i64 = 20;

/// Handles the webhooks `numbers` of the month, up to a day after each was received, and writes a file for every
/// twenty. Returns the outcomes.
async fn stream_month(place: &Place, firehose: &FakeFirehose, numbers: std::ops::Range<i64>) -> Vec<Outcome> {
    let mut stand = Stand::start(&place.env_with(firehose)).await;
    let mut outcomes = Vec::new();
    for first in numbers.clone().step_by(10) {
        let batch: Vec<_> = (first..(first + 10).min(numbers.end)).map(|number| webhook(number, 0)).collect();
        // Just after the last of them. The invocations' own minutes are taken off.
        let now_s = received_at_s(first + 9) - stand.invocations * 60;
        outcomes.extend(stand.consume_from(now_s, &batch).await);
        if (first + 10) % IN_A_FILE == 0 || first + 10 >= numbers.end {
            // The day on which the oldest record of the file was put on the stream.
            let oldest_s = received_at_s(first + 9 - (IN_A_FILE - 10));
            let day =
                Timestamp::from_second(oldest_s.max(MARCH_S.start)).unwrap().strftime("%Y/%m/%d").to_string();
            place.deliver(firehose, &day, usize::try_from(first).unwrap()).await;
        }
    }
    outcomes
}

/// The file without its n-th line, or with another in its place.
fn with_line(file: &RecordFile, line: usize, with: Option<&Record>) -> Vec<u8> {
    let lines = file.records().filter_map(|(number, record)| match with {
        _ if number != line => Some(record.unwrap().to_line()),
        Some(record) => Some(record.to_line()),
        None => None,
    });
    gzip(&lines.collect::<Vec<_>>().concat())
}

fn all_processed(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Processed)
}

/// The ids of an export as JSON lines.
fn exported_ids(output: &Output) -> Vec<String> {
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    text(&output.stdout).lines().map(id).collect()
}

#[tokio::test]
async fn a_month_on_a_stream_is_kept_and_proven() {
    let place = Place::in_s3("stream-month").await;
    let firehose = FakeFirehose::start().await;
    assert!(all_processed(&stream_month(&place, &firehose, 0..COUNT).await));
    assert_eq!(firehose.calls(), [10; 30], "a batch is one call");
    let files = place.files().await;
    assert_eq!((files.len(), place.kept().await.len()), (15, 0), "all records are in files");

    a_whole_month_is_proven_and_three_days_are_exported(&place).await;
    let verified = place.learnink(&["verify", "--from", "2026-03-10", "--to", "2026-03-12"]).await;
    assert_eq!(text(&verified.stdout), "29 records, all signed by LearnInk\n");
    let all = place.learnink(&["export", "--from", "2026-03-01", "--to", "2026-03-31"]).await;
    assert_eq!(exported_ids(&all), (0..COUNT).map(id).collect::<Vec<_>>(), "in the order of their receipt");
    let arguments = ["export", "--from", "2026-03-10", "--to", "2026-03-10", "--type", "notifications.sent"];
    let csv = place.learnink(&[&arguments[..], &["--format", "csv"]].concat()).await;
    assert_eq!(text(&csv.stdout).replace("\r\n", "\n"), format!("\u{feff}{CSV}"));
    let nothing =
        place.learnink(&["export", "--from", "2026-03-10", "--to", "2026-03-10", "--type", "none"]).await;
    assert!(
        text(&nothing.stderr).starts_with("error: there is nothing to export in "),
        "{}",
        text(&nothing.stderr)
    );
    assert_eq!((text(&nothing.stdout), nothing.status.code()), (String::new(), Some(1)));

    // One byte of one body.
    let (name, file) = &files[7];
    let mut record = file.record(4).unwrap().unwrap();
    let at = record.body.windows(5).position(|window| window == b"2026-").unwrap();
    record.body[at] = b'3';
    let tampered = record.id.clone();
    place.overwrite(name, with_line(file, 4, Some(&record))).await;
    let verified = place.learnink(&["verify"]).await;
    let expected = format!("{name} line 4 ({tampered}): no signature matches\n300 records, 1 bad\n");
    assert_eq!((text(&verified.stdout), verified.status.code()), (expected, Some(1)));
    place.overwrite(name, with_line(file, 0, None)).await;

    // A record that is moved to another time is not proven either, and one that is moved to another file is noticed.
    let (far, far_file) = &files[0];
    place.overwrite(far, with_line(far_file, 2, Some(&file.record(4).unwrap().unwrap()))).await;
    let verified = place.learnink(&["verify"]).await;
    let said = text(&verified.stdout);
    assert!(said.starts_with(&format!("{far} line 2 ({tampered}): it was received on ")), "{said}");
    assert!(said.contains(", which is not near the file's day\n"), "{said}");
    place.overwrite(far, with_line(far_file, 0, None)).await;

    // A file that ends too early.
    let whole =
        gzip(&file.records().map(|(_, record)| record.unwrap().to_line()).collect::<Vec<_>>().concat());
    place.overwrite(name, whole[..whole.len() / 2].to_vec()).await;
    let verified = place.learnink(&["verify"]).await;
    let said = text(&verified.stdout);
    assert!(said.starts_with(&format!("{name}: it is ")) && said.contains("damaged"), "{said}");
    assert_eq!(verified.status.code(), Some(1));
    let exported = place.learnink(&["export", "--from", "2026-03-01", "--to", "2026-03-31"]).await;
    assert!(text(&exported.stderr).contains(&format!("{name}: it is ")), "{}", text(&exported.stderr));
    assert_eq!(exported.status.code(), Some(1));
}

#[tokio::test]
async fn a_record_that_is_kept_twice_counts_once_in_both_layouts() {
    let place = Place::in_s3("stream-twice").await;
    let firehose = FakeFirehose::start().await;
    // Objects for the first third, files for the others, and both for some: as after a switch.
    let objects: Vec<_> = (0..120).map(|number| webhook(number, 0)).collect();
    assert!(all_processed(&Stand::start(&place.env).await.consume(&objects).await));
    let mut calls = 0;
    firehose.decide(move || {
        calls += 1;
        if calls % 2 == 0 { StreamFate::TakenTwice } else { StreamFate::Taken }
    });
    assert!(all_processed(&stream_month(&place, &firehose, 100..COUNT).await));
    assert_eq!((place.kept().await.len(), place.files().await.len()), (120, 10));

    let verified = place.learnink(&["verify"]).await;
    let expected = "300 records, all signed by LearnInk\n120 copies of records are not counted\n";
    assert_eq!((text(&verified.stdout).as_str(), verified.status.code()), (expected, Some(0)));
    let exported = place.learnink(&["export", "--from", "2026-03-01", "--to", "2026-03-31"]).await;
    assert_eq!(exported_ids(&exported), (0..COUNT).map(id).collect::<Vec<_>>());
    assert_eq!(text(&exported.stderr), "300 records exported\n");
}

#[tokio::test]
async fn what_is_too_large_for_a_stream_or_late_becomes_an_object() {
    let place = Place::in_s3("stream-large").await;
    let firehose = FakeFirehose::start().await;
    let mut stand = Stand::start(&place.env_with(&firehose)).await;
    let now_s = received_at_s(10);
    let body = |bytes: usize| json!({ "type": "big", "data": "x".repeat(bytes) }).to_string();
    let big = |number: i64, bytes: usize| {
        let body = body(bytes);
        let headers = signing::headers(SECRET, &id(number), now_s - 1, body.as_bytes());
        let mut record = record(&format!("sqs-{number}"), &id(number), body);
        let [_, (_, signed_at), (_, signature)] = headers;
        for (name, value) in [
            (attribute::TIMESTAMP, signed_at),
            (attribute::SIGNATURE, signature),
            (attribute::RECEIVED_AT, format!("{now_s}000")),
        ] {
            record.message_attributes.get_mut(name).unwrap().string_value = Some(value);
        }
        record
    };
    // Ten of 900 kB are more than one call takes.
    let large: Vec<_> = (200..210).map(|number| big(number, 900_000)).collect();
    assert!(all_processed(&stand.consume_from(now_s, &large).await));
    assert_eq!(firehose.calls().iter().sum::<usize>(), 10);
    assert!(firehose.calls().len() > 1 && place.kept().await.is_empty());
    assert!(all_processed(&stand.consume_from(now_s, &[big(210, 1_100_000)]).await));
    // The last one was received a day and more ago.
    assert!(all_processed(&stand.consume_from(received_at_s(1) + 86_400, &[webhook(1, 0)]).await));
    assert_eq!((firehose.taken().len(), place.kept().await.len()), (10, 2));
    place.deliver(&firehose, "2026/03/02", 1).await;
    let verified = place.learnink(&["verify"]).await;
    assert_eq!(text(&verified.stdout), "12 records, all signed by LearnInk\n");
}

#[tokio::test]
async fn nothing_is_called_archived_that_is_not() {
    let fates = [
        StreamFate::Taken,
        StreamFate::PartlyTaken,
        StreamFate::Failed(500, "InternalFailure"),
        StreamFate::Failed(503, "ServiceUnavailableException"),
        StreamFate::Failed(400, "AccessDeniedException"),
        StreamFate::Failed(400, "InvalidArgumentException"),
        StreamFate::Failed(400, "ResourceNotFoundException"),
        StreamFate::TakenThenFailed(500, "InternalFailure"),
        StreamFate::Page,
        StreamFate::Unsaid,
    ];
    let place = Place::in_s3("stream-faults").await;
    let firehose = FakeFirehose::start().await;
    let mut rng = fastrand::Rng::with_seed(7);
    firehose.decide(move || fates[rng.usize(..fates.len())]);
    let mut stand = Stand::start(&place.env_with(&firehose)).await;
    let now_s = received_at_s(9);
    let mut left: Vec<_> = (0..10).map(|number| webhook(number, 0)).collect();
    let (mut retries, mut rounds) = (0, 0);
    while !left.is_empty() {
        rounds += 1;
        assert!(rounds < 200, "{} are left", left.len());
        let outcomes = stand.consume_from(now_s, &left).await;
        let taken = String::from_utf8(firehose.taken().concat()).unwrap();
        let mut ended = Vec::new();
        for (record, outcome) in left.drain(..).zip(outcomes) {
            let id = record.message_attributes[attribute::ID].string_value.clone().unwrap();
            let is_taken = taken.contains(&format!(r#""svix-id":"{id}""#));
            match outcome {
                Outcome::Processed => assert!(is_taken, "{id} was called archived"),
                Outcome::Retry => ended.push(record),
                outcome => panic!("{id} ended as {outcome:?}"),
            }
        }
        retries += ended.len();
        left = ended;
    }
    assert!(retries > 10, "{retries} retries");
    place.deliver(&firehose, "2026/03/01", 1).await;
    let verified = place.learnink(&["verify"]).await;
    assert!(
        text(&verified.stdout).starts_with("10 records, all signed by LearnInk\n"),
        "{}",
        text(&verified.stdout)
    );
    assert_eq!(verified.status.code(), Some(0));
}

#[tokio::test]
async fn a_part_of_a_call_that_fails_fails_only_its_own_messages() {
    let place = Place::in_s3("stream-partly").await;
    let firehose = FakeFirehose::start().await;
    firehose.decide(|| StreamFate::PartlyTaken);
    let mut stand = Stand::start(&place.env_with(&firehose)).await;
    let records: Vec<_> = (0..10).map(|number| webhook(number, 0)).collect();
    let outcomes = stand.consume_from(received_at_s(9), &records).await;
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    assert_eq!((count(Outcome::Processed), count(Outcome::Retry)), (5, 5));
    let taken = String::from_utf8(firehose.taken().concat()).unwrap();
    for (number, outcome) in (0..10).zip(&outcomes) {
        let is_taken = taken.contains(&format!(r#""svix-id":"{}""#, id(number)));
        assert_eq!(is_taken, *outcome == Outcome::Processed, "{}", id(number));
    }
}

#[tokio::test]
async fn a_stream_that_is_not_there_is_a_retry_and_the_records_come_once_it_is() {
    let place = Place::in_s3("stream-gone").await;
    let firehose = FakeFirehose::start().await;
    let records: Vec<_> = (0..10).map(|number| webhook(number, 0)).collect();
    let now_s = received_at_s(9);
    let nobody = place.env_with(&firehose).with_aws(|| Ok(learnink_local::sdk_config("http://127.0.0.1:1")));
    let other = [("LEARNINK_ARCHIVE_STREAM", "other".to_owned())];
    for env in [nobody, place.env_with(&firehose).with_variables(other)] {
        let outcomes = Stand::start(&env).await.consume_from(now_s, &records).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Retry), "{outcomes:?}");
    }
    assert!(firehose.taken().is_empty() && place.kept().await.is_empty());
    assert!(all_processed(
        &Stand::start(&place.env_with(&firehose)).await.consume_from(now_s, &records).await
    ));
    assert_eq!(firehose.taken().len(), 10);
}
