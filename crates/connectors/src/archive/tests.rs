use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::sync::Mutex;

use axum::Router as HttpRouter;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use jiff::Timestamp;
use learnink_webhook::items::ItemLog;
use learnink_webhook::{Envelope, FailureClass, Message, MessageId};
use tokio::net::TcpListener;

use super::*;

const BODY: &str = r#"{"type":"user.course.started","data":{"phone_number":"+254705408079"},
    "timestamp":"2022-11-04T09:58:58.233Z"}"#;
const NAME: &str = "user.course.started/2026/03/01/msg_1.json.gz";

fn message(body: &str, received_at: &str) -> Message {
    Message {
        id: MessageId::parse("msg_1").unwrap(),
        signed_at_s: 1_772_366_400,
        signature: "v1,c2lnbmF0dXJl".to_owned(),
        received_at: received_at.parse().unwrap(),
        event_type: None,
        body: body.as_bytes().to_vec(),
        part: None,
        window: None,
    }
}

fn first() -> Message {
    message(BODY, "2026-03-01T12:00:00Z")
}

/// The result of a message, as the consumer has it handled.
async fn handled(archive: &Archive, message: &Message) -> HandlerResult {
    kept_by(&Keeper { archive: archive.clone(), stream: None }, message, Timestamp::UNIX_EPOCH).await
}

async fn kept_by(keeper: &Keeper, message: &Message, now: Timestamp) -> HandlerResult {
    let message = Arc::new(message.clone());
    let envelope = Arc::new(Envelope::parse(&message.body).unwrap());
    let router = keeper.clone().router();
    let log = Arc::new(ItemLog::default());
    let event = Event::new(message, envelope.clone(), "archive", now, &BTreeSet::new(), log);
    router.route(&envelope).handlers[0].call(event).await
}

fn in_folder(folder: &FilePath) -> Archive {
    Archive::open(&format!("file://{}", folder.display()), &Env::of([])).unwrap()
}

fn lambda(name: &str) -> Option<String> {
    let value = match name {
        "AWS_REGION" => "eu-west-1",
        "AWS_ACCESS_KEY_ID" => "key",
        "AWS_SECRET_ACCESS_KEY" => "s3cr3t",
        "AWS_SESSION_TOKEN" => "t0k3n",
        "AWS_LAMBDA_FUNCTION_NAME" => "consumer",
        _ => return None,
    };
    Some(value.to_owned())
}

/// An S3 that gives every request the same answer.
async fn in_s3(status: u16, body: &'static str) -> Archive {
    in_s3_that_says((StatusCode::from_u16(status).unwrap(), body)).await
}

async fn in_s3_that_says<A: IntoResponse + Clone + Send + Sync + 'static>(answer: A) -> Archive {
    let said = |State(answer): State<A>| async move { answer };
    served(HttpRouter::new().fallback(said).with_state(answer)).await
}

async fn served(s3: HttpRouter) -> Archive {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, s3).await });
    s3_at(&endpoint)
}

/// Names of objects, and their sizes.
type Objects = Vec<(String, u64)>;

/// The requests that a server received.
type Asked = Arc<Mutex<Vec<String>>>;

/// An S3 with these objects, which it lists as S3 does, and the requests that it received.
async fn in_s3_with(objects: Objects) -> (Archive, Asked) {
    let asked = Asked::default();
    let list = |State((objects, asked)): State<(Objects, Asked)>, request: Request| async move {
        let url = format!("http://s3{}", request.uri());
        asked.lock().unwrap().push(url.clone());
        let url = reqwest::Url::parse(&url).unwrap();
        let asked_for = |name: &str| {
            url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
        };
        let prefix = asked_for("prefix").unwrap_or_default();
        let delimiter = asked_for("delimiter");
        let mut prefixes = BTreeSet::new();
        let mut contents = Vec::new();
        for (key, size) in objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            match key[prefix.len()..].split_once('/') {
                Some((folder, _)) if delimiter.is_some() => {
                    prefixes.insert(format!("{prefix}{folder}/"));
                }
                _ => contents.push(format!(
                    "<Contents><Key>{key}</Key><Size>{size}</Size>\
                     <LastModified>2026-03-01T12:00:00.000Z</LastModified></Contents>"
                )),
            }
        }
        for prefix in prefixes {
            contents.push(format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>"));
        }
        format!("<ListBucketResult>{}</ListBucketResult>", contents.concat())
    };
    let s3 = HttpRouter::new().fallback(list).with_state((objects, asked.clone()));
    (served(s3).await, asked)
}

fn s3_at(endpoint: &str) -> Archive {
    learnink_aws::install_tls_provider();
    let env = Env::new(lambda).with_variables([("AWS_ENDPOINT_URL_S3", endpoint.to_owned())]);
    Archive::open("s3://bucket/prefix", &env).unwrap()
}

#[tokio::test]
async fn a_message_is_kept_as_it_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let archive = in_folder(folder.path());
    handled(&archive, &first()).await.unwrap();
    let names = archive.list(&Selection::default()).await.unwrap().records;
    assert_eq!(names.iter().map(Name::as_str).collect::<Vec<_>>(), [NAME]);
    let record = Record::decode(&archive.read(&names[0]).await.unwrap()).unwrap();
    assert!(record == Record::from(&first()));
    assert!(folder.path().join(NAME).is_file());
}

#[tokio::test]
async fn a_message_that_comes_back_is_kept_once_and_the_first_record_stays() {
    let folder = tempfile::tempdir().unwrap();
    let archive = in_folder(folder.path());
    handled(&archive, &first()).await.unwrap();
    let kept = std::fs::read(folder.path().join(NAME)).unwrap();
    handled(&archive, &first()).await.unwrap();
    // The sender posted it again: another time and signature, the same body.
    let resent = Message { signed_at_s: 1_772_370_000, ..message(BODY, "2026-03-01T13:00:00Z") };
    handled(&archive, &resent).await.unwrap();
    assert_eq!(archive.list(&Selection::default()).await.unwrap().records.len(), 1);
    assert_eq!(std::fs::read(folder.path().join(NAME)).unwrap(), kept);
}

#[tokio::test]
async fn an_object_of_other_content_under_the_name_is_a_permanent_failure_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let archive = in_folder(folder.path());
    handled(&archive, &first()).await.unwrap();
    let other = message(&BODY.replace("+254705408079", "+254705408070"), "2026-03-01T12:00:00Z");
    let error = handled(&archive, &other).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Permanent);
    assert_eq!(
        error.to_string(),
        format!("the archive has an object of other content under this record's name: {NAME}")
    );

    std::fs::write(folder.path().join(NAME), "no record").unwrap();
    assert_eq!(handled(&archive, &first()).await.unwrap_err().class(), FailureClass::Permanent);
    assert_eq!(std::fs::read(folder.path().join(NAME)).unwrap(), b"no record");
}

#[tokio::test]
async fn an_object_that_is_larger_than_any_record_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let archive = in_folder(folder.path());
    handled(&archive, &first()).await.unwrap();
    let names = archive.list(&Selection::default()).await.unwrap().records;
    // A sparse file: it takes no space, but would fill the memory.
    let file = std::fs::File::create(folder.path().join(NAME)).unwrap();
    for bytes in [LARGEST_BYTES as u64 + 1, 5 << 40] {
        file.set_len(bytes).unwrap();
        let error = archive.read(&names[0]).await.unwrap_err();
        assert_eq!(error, ArchiveError::TooLarge { bytes });
        assert_eq!(error.to_string(), format!("it has {bytes} bytes, more than any record"));
    }
    let error = handled(&archive, &first()).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().contains("other content")), (FailureClass::Permanent, true));
    file.set_len(LARGEST_BYTES as u64).unwrap();
    assert_eq!(archive.read(&names[0]).await.unwrap().len(), LARGEST_BYTES);
}

#[tokio::test]
async fn a_store_that_fails_is_asked_again_and_its_answer_is_not_repeated() {
    let busy = "<Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>";
    let mismatch = "<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>x-amz-security-token:t0k3n\
        </CanonicalRequest></Error>";
    let gone = "<Error><Code>NoSuchBucket</Code></Error>";
    for (status, answer, expected) in [
        (503, busy, "the store refused or did not answer (SlowDown)"),
        (403, mismatch, "access is denied (SignatureDoesNotMatch)"),
        (404, gone, "the bucket or the object is not there (NoSuchBucket)"),
        (400, "t0k3n", "the store refused or did not answer (400)"),
    ] {
        let error = handled(&in_s3(status, answer).await, &first()).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Retryable);
        assert_eq!(error.to_string(), format!("could not write to the archive: {expected}"));
    }
    // For an answer that is not S3's, the status is reported.
    let error = handled(&in_s3(418, "<html>t0k3n</html>").await, &first()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not write to the archive: the store refused or did not answer (418)"
    );
}

#[tokio::test]
async fn a_conflict_with_another_request_is_tried_again_as_one() {
    // The role may write and read, but not list: S3 then denies access to objects that do not exist.
    let conflict = HttpRouter::new().fallback(|method: Method| async move {
        if method == Method::PUT {
            (StatusCode::CONFLICT, "<Error><Code>ConditionalRequestConflict</Code></Error>")
        } else {
            (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>")
        }
    });
    let error = handled(&served(conflict).await, &first()).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Retryable);
    assert_eq!(
        error.to_string(),
        "could not write to the archive: another request for the object is under way, and S3 asks to try again \
         (ConditionalRequestConflict)"
    );

    // It exists and cannot be read: that is about rights.
    let there = HttpRouter::new().fallback(|method: Method| async move {
        if method == Method::PUT {
            (StatusCode::PRECONDITION_FAILED, "<Error><Code>PreconditionFailed</Code></Error>")
        } else {
            (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>")
        }
    });
    let error = handled(&served(there).await, &first()).await.unwrap_err();
    assert_eq!(error.to_string(), "could not read the archive: access is denied (AccessDenied)");
}

#[tokio::test]
async fn a_bucket_in_another_region_is_said_to_be_and_where() {
    let set = "set AWS_REGION to us-east-1, or, in a Lambda, use a bucket in the function's region";
    let header = [("x-amz-bucket-region", "us-east-1")];
    let moved = StatusCode::MOVED_PERMANENTLY;
    let redirect =
        "<Error><Code>PermanentRedirect</Code><Endpoint>b.s3.us-east-1.amazonaws.com</Endpoint></Error>";
    let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>us-east-1</Region></Error>";
    let location = "<Error><Code>IllegalLocationConstraintException</Code></Error>";
    for (archive, code) in [
        (in_s3_that_says((moved, header, redirect)).await, " (PermanentRedirect)"),
        (in_s3_that_says((moved, header, "")).await, ""),
        (in_s3_that_says((StatusCode::TEMPORARY_REDIRECT, header, "")).await, ""),
        (in_s3(400, malformed).await, " (AuthorizationHeaderMalformed)"),
        (
            in_s3_that_says((StatusCode::BAD_REQUEST, header, location)).await,
            " (IllegalLocationConstraintException)",
        ),
    ] {
        let expected = format!("the bucket is in another region{code}; {set}");
        let error = handled(&archive, &first()).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Retryable);
        assert_eq!(error.to_string(), format!("could not write to the archive: {expected}"));
        for days in [None, Some(("2026-03-01".parse().unwrap(), "2026-03-02".parse().unwrap()))] {
            let error = archive.list(&Selection { event_type: None, days }).await.unwrap_err();
            assert_eq!(error.to_string(), format!("could not list the archive: {expected}"));
        }
    }

    let unnamed = [
        in_s3(301, redirect).await,
        in_s3(301, "").await,
        in_s3(400, location).await,
        in_s3_that_says((moved, [("x-amz-bucket-region", "<t0k3n>")], redirect)).await,
    ];
    for archive in unnamed {
        let error = archive.list(&Selection::default()).await.unwrap_err().to_string();
        assert!(
            error.contains("; set AWS_REGION to the bucket's, or,") && !error.contains("t0k3n"),
            "{error}"
        );
    }
    // Another fault of a request, which names no region.
    for (answer, expected) in [
        ("<Error><Code>AuthorizationHeaderMalformed</Code></Error>", "AuthorizationHeaderMalformed"),
        ("<Error><Code>InvalidArgument</Code><Region>us-east-1</Region></Error>", "InvalidArgument"),
        ("", "400"),
    ] {
        let error = in_s3(400, answer).await.list(&Selection::default()).await.unwrap_err();
        let expected =
            format!("could not list the archive: the store refused or did not answer ({expected})");
        assert_eq!(error.to_string(), expected);
    }
}

/// Records of three days, and other objects that archives have.
fn keys(prefix: &str) -> Objects {
    [
        ("", 0),
        (".DS_Store", 6148),
        ("README.txt", 7),
        ("inventory/2026-03-01T01-00Z/manifest.json", 512),
        ("user.course.started/", 0),
        ("user.course.started/2026/", 0),
        ("user.course.started/2026/03/01/", 0),
        ("user.course.started/2026/03/01/.DS_Store", 6148),
        ("user.course.started/2026/03/01/empty", 0),
        ("user.course.started/2026/03/01/msg_1.json.gz", 300),
        ("user.course.started/2026/03/01/msg_1.json.gz/copy", 300),
        ("user.course.started/2026/13/01/msg_1.json.gz", 300),
        ("user.course.started/2026/3/1/msg_1.json.gz", 300),
        ("user.course.started/2026/03/02/emptied.json.gz", 0),
        ("user.course.started/msg_1.json.gz", 300),
        ("zz/1999/12/31/msg_2.json.gz", 300),
    ]
    .map(|(key, size)| (format!("{prefix}{key}"), size))
    .into()
}

#[tokio::test]
async fn only_what_has_the_name_of_a_record_is_one() {
    let (in_s3, _) = in_s3_with(keys("prefix/")).await;
    let folder = tempfile::tempdir().unwrap();
    for (key, size) in keys("") {
        let path = folder.path().join(&key);
        if key.is_empty() || key.ends_with('/') {
            std::fs::create_dir_all(path).unwrap();
        } else if !key.ends_with("/copy") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap().set_len(size).unwrap();
        }
    }
    let of = |listing: Listing| {
        let names = |names: &[Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        (names(&listing.records), names(&listing.others))
    };
    let records = [
        "user.course.started/2026/03/01/msg_1.json.gz",
        "user.course.started/2026/03/02/emptied.json.gz",
        "zz/1999/12/31/msg_2.json.gz",
    ];
    // S3 takes names with empty parts and dots, which no file can have.
    let odd = [
        "prefix//x",
        "prefix/user.course.started//2026/03/01/a.json.gz",
        "prefix/../x",
        "prefix/a/./b",
        "prefix/zz//",
    ];
    let with_odd = keys("prefix/").into_iter().chain(odd.map(|key| (key.to_owned(), 7))).collect();
    let (odd_s3, _) = in_s3_with(with_odd).await;
    for archive in [in_s3, odd_s3, in_folder(folder.path())] {
        let (all, others) = of(archive.list(&Selection::default()).await.unwrap());
        assert_eq!(all, records);
        assert!(
            others.contains(&"README.txt".to_owned()) && others.iter().all(|name| !name.contains("empt"))
        );
        let days = Some(("2026-03-01".parse().unwrap(), "2026-03-01".parse().unwrap()));
        let (day, others) = of(archive.list(&Selection { event_type: None, days }).await.unwrap());
        assert_eq!(day, records[..1]);
        assert!(others.iter().all(|name| name.starts_with("user.course.started/2026/03/01/")), "{others:?}");
        assert!(others.contains(&"user.course.started/2026/03/01/.DS_Store".to_owned()));
    }
}

#[tokio::test]
async fn a_listing_takes_requests_for_what_is_there_and_not_for_what_is_asked() {
    let days = |from: &str, to: &str| Some((from.parse().unwrap(), to.parse().unwrap()));
    let list = async |event_type: Option<&str>, days| {
        let (archive, asked) = in_s3_with(keys("prefix/")).await;
        let selection = Selection { event_type: event_type.map(str::to_owned), days };
        let listing = archive.list(&selection).await.unwrap();
        (listing.records.len(), asked.lock().unwrap().len())
    };
    let everything = list(None, days("0001-01-01", "9999-12-31")).await;
    // The types, the years of each, the months of both years, and a listing of each month.
    assert_eq!(everything, (3, 1 + 3 + 2 + 2));
    assert_eq!(list(None, days("1900-01-01", "2100-12-31")).await, everything);
    assert_eq!(list(None, None).await, (3, 1));
    // A day, a month, and a month and a half, for each of the types.
    assert_eq!(list(None, days("2026-03-01", "2026-03-01")).await, (1, 1 + 3));
    assert_eq!(list(None, days("2026-03-01", "2026-03-31")).await, (2, 1 + 3));
    // The last of each is about a stream's files, which are there for all types.
    let started = Some("user.course.started");
    assert_eq!(list(started, days("2026-03-01", "2026-03-01")).await, (1, 1 + 1));
    assert_eq!(list(started, days("2026-02-15", "2026-03-31")).await, (2, 1 + 1 + 1));
    assert_eq!(list(started, days("2026-03-02", "2026-04-30")).await, (1, 1 + 1 + 1 + 1));
    assert_eq!(list(Some("none"), days("1900-01-01", "2100-12-31")).await, (0, 1 + 1));
}

#[tokio::test]
async fn a_streams_files_are_listed_for_the_days_around_theirs_and_for_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let archive = in_folder(folder.path());
    handled(&archive, &first()).await.unwrap();
    for file in [
        "2026/02/26/a.jsonl.gz",
        "2026/02/27/a.jsonl.gz",
        "2026/03/03/a.jsonl.gz",
        "2026/03/04/a.jsonl.gz",
        "2026/03/03/a.txt",
    ] {
        let path = folder.path().join(STREAM_FOLDER).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let days = Some(("2026-03-01".parse().unwrap(), "2026-03-01".parse().unwrap()));
    for event_type in [None, Some("user.course.started".to_owned()), Some("other".to_owned())] {
        let listing = archive.list(&Selection { event_type: event_type.clone(), days }).await.unwrap();
        let files: Vec<_> = listing.files.iter().map(Name::as_str).collect();
        assert_eq!(files, ["layout=stream/2026/02/27/a.jsonl.gz", "layout=stream/2026/03/03/a.jsonl.gz"]);
        assert_eq!(listing.records.len(), usize::from(event_type.as_deref() != Some("other")));
        let all = archive.list(&Selection { event_type, days: None }).await.unwrap();
        assert_eq!((all.files.len(), all.others.len()), (4, 1));
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_asked_again() {
    let error = handled(&s3_at("http://127.0.0.1:1"), &first()).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Retryable);
    assert_eq!(
        error.to_string(),
        "could not write to the archive: the store refused or did not answer (connect)"
    );

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = handled(&in_folder(&folder.path().join("file")), &first()).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Retryable);
    assert_eq!(
        error.to_string(),
        "could not write to the archive: the store refused or did not answer (not a directory)"
    );
}

#[tokio::test]
async fn days_and_types_are_selected_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let archive = in_folder(folder.path());
    for (event_type, day) in [
        ("a", "2026-02-28"),
        ("a", "2026-03-01"),
        ("b", "2026-03-01"),
        ("b/c", "2026-03-02"),
        ("a", "2026-03-03"),
    ] {
        let body = BODY.replace("user.course.started", event_type);
        handled(&archive, &message(&body, &format!("{day}T12:00:00Z"))).await.unwrap();
    }
    std::fs::write(folder.path().join("readme.txt"), "not ours").unwrap();

    let listed = async |event_type: Option<&str>, days: Option<(&str, &str)>| {
        let days = days.map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()));
        let selection = Selection { event_type: event_type.map(str::to_owned), days };
        let names = archive.list(&selection).await.unwrap().records;
        names.iter().map(|name| name.as_str().replace("/msg_1.json.gz", "")).collect::<Vec<_>>()
    };
    let march = Some(("2026-03-01", "2026-03-02"));
    assert_eq!(listed(None, march).await, ["a/2026/03/01", "b!2fc/2026/03/02", "b/2026/03/01"]);
    assert_eq!(listed(Some("a"), march).await, ["a/2026/03/01"]);
    assert_eq!(listed(Some("b/c"), None).await, ["b!2fc/2026/03/02"]);
    assert_eq!(listed(None, None).await.len(), 5);
    let years = Some(("0001-01-01", "9999-12-31"));
    assert_eq!(listed(None, years).await, listed(None, None).await);
    let weeks = Some(("2026-02-28", "2026-03-02"));
    assert_eq!(listed(None, weeks).await.len(), 4);
    assert_eq!(listed(Some("none"), march).await, [""; 0]);
    let nothing = in_folder(&folder.path().join("nothing"));
    for days in [None, Some(("2026-03-01".parse().unwrap(), "2026-03-01".parse().unwrap()))] {
        assert_eq!(nothing.list(&Selection { event_type: None, days }).await.unwrap(), Listing::default());
    }
}

#[tokio::test]
async fn a_folder_may_be_called_anything() {
    let folder = tempfile::tempdir().unwrap();
    let escaped = folder.path().join("p%41/a%20b");
    let archive = Archive::open(escaped.to_str().unwrap(), &Env::of([])).unwrap();
    handled(&archive, &first()).await.unwrap();
    assert!(escaped.join(NAME).is_file());
    for odd in ["a é#1 b", "pct%zz", "100%", "what?", "h#x", "it's", "a+b&c=d;e,f@g:h", "x  y", "[z]"] {
        let odd = folder.path().join(odd);
        let archive = in_folder(&odd);
        handled(&archive, &first()).await.unwrap();
        assert!(odd.join(NAME).is_file(), "{odd:?}");
        assert_eq!(archive.list(&Selection::default()).await.unwrap().records[0].as_str(), NAME);
    }
}

#[test]
fn the_handler_is_off_unless_a_url_switches_it_on() {
    let names = |url: &str| router(&Env::of([(VARIABLE, url)])).unwrap().handler_names();
    assert_eq!(router(&Env::new(lambda)).unwrap().handler_names(), [""; 0]);
    assert_eq!(names(" "), [""; 0]);
    assert_eq!(names("file:///tmp/archive"), ["archive"]);
}

#[test]
fn what_is_wrong_with_a_stream_is_said() {
    learnink_aws::install_tls_provider();
    let error = |variables: &[(&'static str, &str)]| {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        router(&Env::new(lambda).with_variables(variables)).map(|_| ()).unwrap_err().to_string()
    };
    let alone = error(&[(STREAM_VARIABLE, "archive")]);
    assert!(alone.starts_with("LEARNINK_ARCHIVE_STREAM cannot be used: there is no archive; set"), "{alone}");
    let folder = router(&Env::of([(VARIABLE, "file:///folder"), (STREAM_VARIABLE, "archive")])).map(|_| ());
    assert!(folder.unwrap_err().to_string().ends_with("LEARNINK_ARCHIVE names a folder"));
    for name in ["arn:aws:firehose:eu-west-1:1:deliverystream/a", "a b", &"a".repeat(65)] {
        let odd = error(&[(VARIABLE, "s3://bucket"), (STREAM_VARIABLE, name)]);
        assert!(odd.contains("it must be the name of a Firehose stream"), "{odd}");
    }
    let both = Env::new(lambda)
        .with_variables([(VARIABLE, "s3://bucket".to_owned()), (STREAM_VARIABLE, "a".to_owned())]);
    assert_eq!(router(&both).unwrap().handler_names(), ["archive"]);
}

#[test]
fn what_is_wrong_with_the_configuration_is_said() {
    learnink_aws::install_tls_provider();
    let error = |url: &str| Archive::open(url, &Env::new(lambda)).unwrap_err().to_string();
    let form =
        "LEARNINK_ARCHIVE cannot be used: it must be a URL such as s3://bucket/prefix or file:///folder";
    for url in ["bucket/prefix", "https://bucket.s3.amazonaws.com/", "file://host/folder"] {
        assert_eq!(error(url), form);
    }
    assert!(
        error("s3:///prefix").ends_with("it names no bucket; it must be a URL such as s3://bucket/prefix")
    );
    assert!(error("s3://bucket/prefix?a=b").ends_with("neither `?` nor `#` nor `@`"));
    assert!(
        error("file:///folder")
            .ends_with("a Lambda keeps no files; it must be a URL such as s3://bucket/prefix")
    );
    assert!(error(&format!("s3://bucket/{}", "p".repeat(513))).ends_with("too long for a prefix"));
    assert!(error("s3://bucket/p%41").contains("a percent sign with two hexadecimal digits"));

    let without = |missing: &'static str| {
        let variable = move |name: &str| lambda(name).filter(|_| name != missing);
        Archive::open("s3://bucket", &Env::new(variable)).map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(without("AWS_SESSION_TOKEN").is_ok());
    for missing in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        assert!(without(missing).unwrap_err().starts_with(&format!("{missing} is not set")));
    }
}

#[test]
fn the_configuration_prints_no_credentials() {
    let archive = s3_at("http://127.0.0.1:1");
    assert_eq!(format!("{archive:?}"), r#"Archive { url: "s3://bucket/prefix", .. }"#);
}
