use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// `seconds` after the start of a test's day.
pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// The clock of the tests: an hour later.
pub(crate) fn now() -> Timestamp {
    time(3600)
}

pub(crate) const BODY: &str = include_str!("../../../../events/notifications.sent.json");
pub(crate) const SIGNATURE: &str = "v1,dGhpcyBpcyBhIHNpZ25hdHVyZSBvZiBhIHRlc3Q=";

pub(crate) fn request(at: i64, message: &str, status: u16) -> Entry {
    let is_accepted = status == 200;
    let headers = [("svix-id", message), ("svix-timestamp", "1767225600"), ("svix-signature", SIGNATURE)];
    Entry::Request(Box::new(Request {
        facts: RequestFacts {
            at: time(at),
            took: Duration::from_micros(1234),
            status: Some(status),
            injected: None,
            message_id: is_accepted.then(|| message.to_owned()),
            claimed_message_id: (!is_accepted && !message.is_empty()).then(|| message.to_owned()),
            event_type: Some("notifications.sent".to_owned()),
            outcome: Some(if is_accepted { "accepted" } else { "refused" }.to_owned()),
            reason: (!is_accepted).then(|| "signature_mismatch".to_owned()),
            detail: None,
            secret: is_accepted.then(|| "current".to_owned()),
            has_unknown_signature: false,
            verify_took: Duration::from_micros(50),
            enqueue_took: is_accepted.then(|| Duration::from_millis(1)),
            method: "POST".to_owned(),
            path: "/webhooks/learnink".to_owned(),
        },
        content: Content {
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            body: BODY.into(),
        },
    }))
}

pub(crate) fn record(at: i64, message: &str, outcome: &str) -> Entry {
    Entry::Record(Record {
        at: time(at),
        message_id: Some(message.to_owned()),
        sqs_message_id: format!("sqs-{message}"),
        receive_count: 1,
        outcome: outcome.to_owned(),
        reason: matches!(outcome, "retry" | "dead_lettered").then(|| "busy".to_owned()),
        handler: matches!(outcome, "retry" | "dead_lettered").then(|| "push".to_owned()),
        handlers: vec![HandlerRun {
            name: "push".to_owned(),
            ended: if outcome == "retry" { "retryable" } else { "done" }.to_owned(),
            detail: None,
            took: Duration::from_millis(12),
        }],
        comes_back_in: None,
    })
}

pub(crate) fn call(at: i64, message: &str, queue: QueueName, call: Call) -> Entry {
    Entry::Queue(QueueCall {
        at: time(at),
        queue,
        call,
        message_id: Some(message.to_owned()),
        sqs_message_id: format!("sqs-{message}"),
    })
}

pub(crate) fn happenings(entries: &[Entry]) -> Vec<Happening> {
    let happening = |entry: &Entry| match entry.clone() {
        Entry::Request(request) => Happening::Request(request.facts),
        Entry::Record(record) => Happening::Record(record),
        Entry::Queue(call) => Happening::Queue(call),
    };
    entries.iter().map(happening).collect()
}

/// A history with these entries.
pub(crate) fn history(entries: impl IntoIterator<Item = Entry>) -> (TempDir, Opened) {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), now).unwrap();
    for entry in entries {
        opened.recorder.record(entry);
    }
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    (folder, opened)
}

fn ids(page: &Page) -> Vec<&str> {
    page.messages.iter().map(|message| message.message.as_str()).collect()
}

fn all(history: &History) -> Page {
    history.messages(&Filter::default(), None, 100, now()).unwrap()
}

#[test]
fn messages_are_listed_by_their_last_arrival_the_newest_first() {
    let entries = [request(0, "msg_1", 200), request(1, "msg_2", 200), request(2, "msg_1", 200)];
    let (_folder, opened) = history(entries);
    let page = all(&opened.history);
    assert_eq!(ids(&page), ["msg_1", "msg_2"]);
    assert_eq!(page.messages[0].attempts, 2);
    assert_eq!(page.messages[0].at, time(2));
    assert_eq!(page.before, None);
}

#[test]
fn a_request_without_an_id_is_a_message_of_its_own() {
    let (_folder, opened) = history([request(0, "", 401), request(1, "", 401)]);
    assert_eq!(ids(&all(&opened.history)), ["request.2", "request.1"]);
}

#[test]
fn an_attempt_that_was_refused_is_beside_the_one_that_was_accepted() {
    let (_folder, opened) = history([request(0, "msg_1", 401), request(5, "msg_1", 200)]);
    let page = all(&opened.history);
    assert_eq!(ids(&page), ["msg_1"]);
    assert_eq!(page.messages[0].state, State::Waiting);
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    let (_folder, opened) = history((0..25).map(|n| request(n, &format!("msg_{n}"), 200)));
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = opened.history.messages(&Filter::default(), before, 10, now()).unwrap();
        seen.extend(page.messages.into_iter().map(|message| message.message));
        before = page.before;
        if before.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..25).rev().map(|n| format!("msg_{n}")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn filters_choose_by_state_type_id_and_time() {
    let mut other = request(2, "msg_b", 200);
    if let Entry::Request(request) = &mut other {
        request.facts.event_type = Some("user.course.started".to_owned());
    }
    let (_folder, opened) = history([
        request(0, "msg_a", 401),
        request(1, "msg_ab", 200),
        record(1, "msg_ab", "processed"),
        other,
    ]);
    let list = |filter: Filter| {
        let page = opened.history.messages(&filter, None, 100, now()).unwrap();
        page.messages.into_iter().map(|message| message.message).collect::<Vec<_>>()
    };
    let by = Filter::default;
    assert_eq!(list(Filter { state: Some(State::Refused), ..by() }), ["msg_a"]);
    assert_eq!(list(Filter { state: Some(State::Done), ..by() }), ["msg_ab"]);
    assert_eq!(list(Filter { event_type: Some("user.course.started".to_owned()), ..by() }), ["msg_b"]);
    assert_eq!(list(Filter { text: Some("_a".to_owned()), ..by() }), ["msg_ab", "msg_a"]);
    assert_eq!(list(Filter { text: Some("%".to_owned()), ..by() }), [""; 0]);
    assert_eq!(list(Filter { since: Some(time(1)), until: Some(time(2)), ..by() }), ["msg_ab"]);
    assert_eq!(opened.history.event_types().unwrap(), ["notifications.sent", "user.course.started"]);
}

#[test]
fn counts_are_of_states_now() {
    let mut again = record(1, "msg_1", "retry");
    if let Entry::Record(record) = &mut again {
        record.comes_back_in = Some(Duration::from_secs(10));
    }
    let (_folder, opened) = history([request(0, "msg_1", 200), again, request(2, "msg_2", 401)]);
    let counts = |at| opened.history.counts(time(at)).unwrap();
    assert_eq!(counts(5), Counts { coming_back: 1, refused: 1, ..Counts::default() });
    assert_eq!(counts(11), Counts { waiting: 1, refused: 1, ..Counts::default() });
    assert_eq!(counts(5).all(), 2);
    let waiting = Filter { state: Some(State::Waiting), ..Filter::default() };
    assert_eq!(opened.history.count_since(&waiting, 0, time(11)).unwrap(), 1);
    assert_eq!(opened.history.count_since(&waiting, 0, time(5)).unwrap(), 0);
    let shown = opened.history.message("msg_1", time(5)).unwrap().unwrap().summary;
    assert_eq!((shown.state, shown.until), (State::ComingBack, Some(time(11))));
    assert_eq!(shown.why.as_deref(), Some("push: busy"));
}

#[test]
fn a_message_has_its_entries_in_the_order_of_their_time() {
    let (_folder, opened) = history([
        call(1, "msg_1", QueueName::Messages, Call::Sent),
        record(3, "msg_1", "processed"),
        request(0, "msg_1", 200),
        call(2, "msg_1", QueueName::Messages, Call::Received),
    ]);
    let message = opened.history.message("msg_1", now()).unwrap().unwrap();
    let times: Vec<_> = message.entries.iter().map(|row| row.entry.at()).collect();
    assert_eq!(times, [time(0), time(1), time(2), time(3)]);
    assert_eq!(message.left_out, 0);
    assert_eq!(message.entries[0].body_bytes, Some(BODY.len() as u64));
    assert_eq!(message.entries[3].entry, happenings(&[record(3, "msg_1", "processed")])[0]);
    assert_eq!(opened.history.message("msg_2", now()).unwrap(), None);
}

#[test]
fn a_call_without_a_message_id_belongs_to_the_message_that_was_sent() {
    let mut deleted = call(2, "msg_1", QueueName::Messages, Call::Deleted);
    let mut unknown = call(2, "msg_9", QueueName::DeadLetters, Call::Sent);
    for entry in [&mut deleted, &mut unknown] {
        if let Entry::Queue(call) = entry {
            call.message_id = None;
        }
    }
    let (_folder, opened) = history([call(1, "msg_1", QueueName::Messages, Call::Sent), deleted, unknown]);
    assert_eq!(opened.history.message("msg_1", now()).unwrap().unwrap().entries.len(), 2);
    let unknown = opened.history.message("sqs.sqs-msg_9", now()).unwrap().unwrap();
    assert_eq!(unknown.summary.state, State::Dead);
}

#[test]
fn the_content_of_a_request_is_kept_byte_by_byte() {
    let mut odd = request(0, "msg_1", 200);
    let body = b"\x00\xff{\"a\":1e400}\r\n".to_vec();
    if let Entry::Request(request) = &mut odd {
        request.content.body.clone_from(&body);
    }
    let (_folder, opened) = history([odd]);
    let message = opened.history.message("msg_1", now()).unwrap().unwrap();
    let content = opened.history.content(message.entries[0].seq).unwrap().unwrap();
    assert_eq!(content.body, body);
    assert_eq!(content.headers[2], ("svix-signature".to_owned(), SIGNATURE.to_owned()));
    assert_eq!(opened.history.content(99).unwrap(), None);
}

#[test]
fn debug_output_shows_neither_body_nor_signature() {
    let shown = format!("{:?}", request(0, "msg_1", 200));
    assert!(!shown.contains("Mary") && !shown.contains(SIGNATURE), "{shown}");
    assert!(shown.contains("Content(3 headers, "), "{shown}");
}

#[cfg(unix)]
#[test]
fn only_its_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, _opened) = history([request(0, "msg_1", 200)]);
    let mut seen = 0;
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        seen += 1;
    }
    assert_eq!(seen, 3, "the file, its log and its index");
}

#[test]
fn a_history_outlives_the_process() {
    let (folder, opened) = history([request(0, "msg_1", 200)]);
    let newest = opened.history.newest();
    drop(opened);
    let again = open(folder.path(), now).unwrap();
    assert_eq!(again.notice, None);
    assert_eq!(ids(&all(&again.history)), ["msg_1"]);
    assert_eq!(again.history.newest(), newest);
}

fn moved_aside(folder: &Path, why: &'static str) {
    let opened = open(folder, now).unwrap();
    let notice = opened.notice.unwrap();
    assert_eq!(notice.why, why);
    assert!(notice.moved_to.exists());
    assert_eq!(notice.moved_to, folder.join(format!("history.sqlite.damaged-{}", now().as_second())));
    assert!(notice.to_string().contains("history.sqlite.damaged-"));
    opened.recorder.record(request(0, "msg_new", 200));
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    assert_eq!(ids(&all(&opened.history)), ["msg_new"]);
}

#[test]
fn a_damaged_file_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("history.sqlite"), "not a database, but long enough for a header").unwrap();
    moved_aside(folder.path(), "is damaged");
}

#[test]
fn a_file_that_is_damaged_in_the_middle_is_moved_aside() {
    let (folder, opened) = history((0..200).map(|n| request(n, &format!("msg_{n}"), 200)));
    drop(opened);
    let path = folder.path().join("history.sqlite");
    // What is still in the log beside it belongs into the file first.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle - 20_000..middle + 20_000].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    moved_aside(folder.path(), "is damaged");
}

#[test]
fn a_file_of_another_version_is_moved_aside() {
    let (folder, opened) = history([request(0, "msg_1", 200)]);
    drop(opened);
    let connection = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    moved_aside(folder.path(), "was written by another version");
}

#[test]
fn a_file_that_another_program_holds_stays_where_it_is() {
    let (folder, opened) = history([request(0, "msg_1", 200)]);
    drop(opened);
    let holder = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    holder.busy_timeout(Duration::from_mins(1)).unwrap();
    holder.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let error = open(folder.path(), now).unwrap_err();
    assert_eq!(error.to_string(), "cannot open the history");
    drop(holder);
    let again = open(folder.path(), now).unwrap();
    assert_eq!(again.notice, None);
    assert_eq!(ids(&all(&again.history)), ["msg_1"]);
}

#[test]
fn a_file_without_tables_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    drop(connection);
    let opened = open(folder.path(), now).unwrap();
    assert_eq!(opened.notice, None);
    opened.recorder.record(request(0, "msg_1", 200));
    assert!(opened.recorder.flush(Duration::from_mins(1)));
}

#[test]
fn only_the_newest_messages_are_kept() {
    let more = 5;
    let count = i64::try_from(MOST_MESSAGES).unwrap() + more;
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), now).unwrap();
    for n in 0..count {
        opened.recorder.record(call(n % 1000, &format!("msg_{n}"), QueueName::Messages, Call::Sent));
        if n % 1000 == 0 {
            assert!(opened.recorder.flush(Duration::from_mins(1)));
        }
    }
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    assert_eq!(opened.history.counts(now()).unwrap().all(), MOST_MESSAGES as u64);
    assert_eq!(opened.recorder.dropped(), 0);
    assert_eq!(opened.history.message("msg_4", now()).unwrap(), None);
    assert!(opened.history.message("msg_5", now()).unwrap().is_some());
}

#[test]
fn the_oldest_entries_go_when_there_are_too_many_bytes() {
    let megabyte = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), now).unwrap();
    for n in 0..300 {
        let mut large = request(n, &format!("msg_{n}"), 200);
        if let Entry::Request(request) = &mut large {
            request.content.body = vec![b'x'; megabyte];
        }
        opened.recorder.record(large);
        if n % 16 == 0 {
            assert!(opened.recorder.flush(Duration::from_mins(1)));
        }
    }
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    let kept = opened.history.counts(now()).unwrap().all();
    assert!((200..=256).contains(&kept), "{kept}");
    assert!(opened.history.message("msg_299", now()).unwrap().is_some());
    let bytes = fs::metadata(folder.path().join("history.sqlite")).unwrap().len();
    assert!(bytes < 300 * megabyte as u64, "{bytes}");
}

#[test]
fn what_is_too_old_is_gone_at_the_next_start() {
    fn next_week() -> Timestamp {
        time(7 * 24 * 3600 + 5)
    }
    let (folder, opened) = history([request(0, "msg_old", 200), request(10, "msg_1", 200)]);
    drop(opened);
    let again = open(folder.path(), next_week).unwrap();
    assert_eq!(ids(&again.history.messages(&Filter::default(), None, 9, next_week()).unwrap()), ["msg_1"]);
}

#[test]
fn a_recorder_never_waits_and_counts_what_it_drops() {
    let (sender, _receiver) = sync_channel(2);
    let recorder = Recorder {
        sender,
        dropped: Arc::new(AtomicU64::new(0)),
        waiting_bytes: Arc::new(AtomicUsize::new(0)),
    };
    for n in 0..5 {
        recorder.record(request(n, "msg_1", 200));
    }
    assert_eq!(recorder.dropped(), 3);
    assert!(!recorder.flush(Duration::from_millis(20)));
}

#[test]
fn entries_that_wait_have_a_limit_in_bytes() {
    let (sender, _receiver) = sync_channel(MOST_WAITING);
    let recorder = Recorder {
        sender,
        dropped: Arc::new(AtomicU64::new(0)),
        waiting_bytes: Arc::new(AtomicUsize::new(0)),
    };
    let mut large = request(0, "msg_1", 200);
    if let Entry::Request(request) = &mut large {
        request.content.body = vec![b'x'; MOST_WAITING_BYTES / 4];
    }
    for _ in 0..6 {
        recorder.record(large.clone());
    }
    assert_eq!(recorder.dropped(), 3);
}

#[test]
fn a_disk_that_takes_nothing_costs_entries_and_nothing_else() {
    let (folder, opened) = history([]);
    // Another program holds the file for longer than the writer waits.
    let holder = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    opened.recorder.record(request(0, "msg_1", 200));
    assert!(!opened.recorder.flush(Duration::from_mins(1)), "it is not written");
    assert_eq!(opened.recorder.dropped(), 1);
    holder.execute_batch("ROLLBACK").unwrap();
    opened.recorder.record(request(1, "msg_2", 200));
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    assert_eq!(ids(&all(&opened.history)), ["msg_2"]);
    assert_eq!(opened.history.dropped(), 1);
}

#[test]
fn an_entry_that_cannot_be_read_costs_no_other_entry() {
    let mut odd = record(1, "msg_odd", "processed");
    if let Entry::Record(record) = &mut odd {
        // It is written, and is too long to be read.
        record.handlers[0].took = Duration::MAX;
    }
    let (_folder, opened) =
        history([request(0, "msg_1", 200), request(0, "msg_odd", 200), odd, request(2, "msg_2", 200)]);
    assert_eq!(opened.recorder.dropped(), 0);
    assert_eq!(ids(&all(&opened.history)), ["msg_2", "msg_odd", "msg_1"]);
}

#[test]
fn thousands_of_requests_with_one_id_do_not_slow_the_writer_down() {
    const IN_A_BATCH: i64 = 25;
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(&folder.path().join("history.sqlite"), now()).unwrap();
    let mut write = |from: i64| {
        let entries = (from..from + IN_A_BATCH).map(|n| request(n / 2, "msg_1", 401)).collect();
        let start = std::time::Instant::now();
        store.write(entries, &BTreeMap::new(), now()).unwrap();
        start.elapsed()
    };
    let took: Vec<_> = (0..200).map(|batch| write(batch * IN_A_BATCH)).collect();
    let fastest = |took: &[Duration]| took.iter().min().copied().unwrap();
    // From the time on when the limit is reached.
    let (early, late) = (fastest(&took[20..40]), fastest(&took[180..]));
    assert!(late < early * 4, "{early:?} {late:?}");
    let (_sender, changes) = watch::channel(0);
    let history = History::new(folder.path().join("history.sqlite"), changes, Arc::default());
    let message = history.message("msg_1", now()).unwrap().unwrap();
    let summary = message.summary;
    assert_eq!((summary.attempts, summary.state), (5_000, State::Refused));
    assert_eq!((summary.arrived, summary.at), (5_000, time(2_499)));
    assert_eq!((message.entries.len(), message.left_out), (500, 4_500));
}

#[test]
fn documents_replace_each_other_by_kind_and_id() {
    let (_folder, opened) = history([]);
    for (kind, id, json) in
        [("endpoint", "a", "1"), ("endpoint", "b", "2"), ("endpoint", "a", "3"), ("x", "a", "4")]
    {
        assert!(opened.recorder.document(kind, id, json.to_owned()));
    }
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    let documents = || opened.history.documents("endpoint").unwrap();
    assert_eq!(documents(), [("a".to_owned(), "3".to_owned()), ("b".to_owned(), "2".to_owned())]);
    for id in ["a", "never stored"] {
        assert!(opened.recorder.remove_document("endpoint", id));
    }
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    assert_eq!(documents(), [("b".to_owned(), "2".to_owned())]);
    assert_eq!(opened.history.documents("x").unwrap().len(), 1);
}

#[test]
fn a_document_that_a_busy_disk_did_not_take_is_written_later() {
    let (folder, opened) = history([]);
    let holder = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for json in ["1", "2"] {
        assert!(opened.recorder.document("endpoint", "a", json.to_owned()));
        assert!(!opened.recorder.flush(Duration::from_mins(1)), "it is not written");
    }
    holder.execute_batch("ROLLBACK").unwrap();
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    assert_eq!(opened.history.documents("endpoint").unwrap(), [("a".to_owned(), "2".to_owned())]);
    assert_eq!(opened.recorder.dropped(), 0);
}

#[test]
fn a_document_that_too_many_jobs_wait_before_is_not_taken() {
    let (folder, opened) = history([]);
    let holder = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let json = "1".repeat(MOST_WAITING_BYTES / 2 + 1);
    let taken = (0..4).filter(|n| opened.recorder.document("x", &n.to_string(), json.clone())).count();
    assert!(taken < 4, "{taken}");
}

#[test]
fn readers_are_told_of_a_change() {
    let (_folder, opened) = history([]);
    let mut changes = opened.history.changes();
    assert!(!changes.has_changed().unwrap());
    opened.recorder.record(request(0, "msg_1", 200));
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), 1);
}
