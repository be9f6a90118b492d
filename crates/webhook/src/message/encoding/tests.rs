use proptest::prelude::*;

use super::*;

fn message(body: impl Into<Vec<u8>>) -> Message {
    Message {
        id: MessageId::parse("msg_p5jXN8AQM9LWM0D4loKWxJek").unwrap(),
        signed_at_s: 1_614_265_330,
        signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned(),
        received_at: Timestamp::from_millisecond(1_614_265_330_250).unwrap(),
        event_type: Some("user.course.started".to_owned()),
        body: body.into(),
        part: None,
        window: None,
    }
}

fn decode(message: &QueueMessage) -> Result<Message, DecodeError> {
    Message::decode(&message.body, |name| value(message, name))
}

fn value<'a>(message: &'a QueueMessage, name: &str) -> Option<&'a str> {
    let found = message.attributes.iter().find(|attribute| attribute.name == name);
    found.map(|attribute| attribute.value.as_str())
}

fn encoding_of(message: &QueueMessage) -> Option<&str> {
    value(message, attribute::ENCODING)
}

/// Text that gzip cannot compress.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + ((state >> 33) % 90) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn a_small_body_travels_as_it_was_signed() {
    let encoded = message(r#"{"test": 2432232314}"#).encode().unwrap();
    insta::assert_json_snapshot!(encoded);
}

#[test]
fn a_body_that_is_not_text_for_sqs_travels_compressed() {
    for body in
        ["".into(), "\u{FFFE}".into(), "a\u{FFFF}".into(), "a\u{0}".into(), "\u{1}\u{2}".into(), vec![0xFF]]
    {
        let body: Vec<u8> = body;
        let encoded = message(body.clone()).encode().unwrap();
        assert_eq!(encoding_of(&encoded), Some("gzip+base64"), "{body:?}");
        assert_eq!(decode(&encoded).unwrap().body, body);
    }
}

#[test]
fn a_large_body_travels_compressed_where_that_is_smaller() {
    let encoded = message(" ".repeat(2_000_000)).encode().unwrap();
    assert_eq!(encoding_of(&encoded), Some("gzip+base64"));
    assert!(encoded.bytes() < 64 * 1024);

    // Base64 of random bytes: gzip saves a quarter and base64 takes a third.
    let encoded = message(noise(200_000)).encode().unwrap();
    assert_eq!(encoding_of(&encoded), None);
}

#[test]
fn a_message_over_the_limit_of_sqs_is_refused_and_one_at_the_limit_is_not() {
    let overhead = message("").encode().unwrap();
    let overhead = overhead.bytes() - overhead.body.len() - "encodingStringgzip+base64".len();
    let largest = message(noise(LARGEST_MESSAGE_BYTES - overhead)).encode().unwrap();
    assert_eq!((largest.bytes(), encoding_of(&largest)), (LARGEST_MESSAGE_BYTES, None));
    assert!(value(&largest, attribute::EVENT_TYPE).is_some());

    // The type is in the body anyway, and is dropped for it.
    let its_type = "event-typeStringuser.course.started".len();
    for bytes in [LARGEST_MESSAGE_BYTES - overhead + 1, LARGEST_MESSAGE_BYTES - overhead + its_type] {
        let larger = message(noise(bytes));
        let encoded = larger.clone().encode().unwrap();
        assert_eq!(value(&encoded, attribute::EVENT_TYPE), None);
        assert_eq!(decode(&encoded).unwrap().body, larger.body);
    }
    let refused = message(noise(LARGEST_MESSAGE_BYTES - overhead + its_type + 1)).encode();
    assert_eq!(refused.err().unwrap().bytes, LARGEST_MESSAGE_BYTES + 1);
}

#[test]
fn the_limits_are_those_of_sqs_and_lambda() {
    assert_eq!((LARGEST_MESSAGE_BYTES, LARGEST_BODY_BYTES), (1_046_528, 6_291_456));
    let started_64_kib = |bytes: usize| encoding_of(&message(" ".repeat(bytes)).encode().unwrap()).is_some();
    let overhead = message("{}").encode().unwrap().bytes() - "{}".len();
    assert_eq!([65_536 - overhead, 65_537 - overhead].map(started_64_kib), [false, true]);
}

#[test]
fn the_size_of_a_compressed_message_is_known_before_it_is_made() {
    let attributes = message("{}").encode().unwrap().attributes;
    for gzip in [&b""[..], b"1", b"12", b"123", b"1234"] {
        let made = compressed(gzip, attributes.clone());
        assert_eq!(made.bytes(), compressed_bytes(gzip.len(), &attributes));
    }
}

/// `notifications.sent` as LearnInk sends it to this many learners, whose ids are random.
fn notifications(learners: usize, note: &str) -> String {
    let mut random = 1_u64;
    let mut digits = |alphabet: &[u8], many: usize| -> String {
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(alphabet[usize::try_from(random >> 33).unwrap() % alphabet.len()])
        };
        (0..many).map(|_| next()).collect()
    };
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let hex = b"0123456789abcdef";
    let mut one = || {
        let (user, phone) = (digits(letters, 28), digits(&hex[..10], 8));
        let custom = [8, 4, 4, 4, 12].map(|many| digits(hex, many)).join("-");
        format!(
            r#"{{"title": "Hi Mary!", "body": "Don't forget to complete your training today{note}", "path": "/learning", "user_id": "{user}", "custom_id": "{custom}", "phone_number": "+2547{phone}"}}"#
        )
    };
    let list: Vec<_> = (0..learners).map(|_| one()).collect();
    format!(
        r#"{{"object": "event", "type": "notifications.sent", "api_version": "2022-11-15", "data": {{"notifications": [{}]}}, "timestamp": "2026-11-28T10:00:00.000Z"}}"#,
        list.join(", ")
    )
}

#[test]
fn a_list_that_fits_only_with_more_effort_is_queued_all_the_same() {
    let fast = gzip(notifications(10_500, "").as_bytes(), Compression::fast());
    assert!(compressed_bytes(fast.len(), &[]) > LARGEST_MESSAGE_BYTES);
    for (learners, note) in [(10_500, ""), (13_500, ""), (10_500, "\u{FFFE}")] {
        let body = notifications(learners, note).into_bytes();
        let encoded = message(body.clone()).encode().unwrap();
        assert!(encoded.bytes() <= LARGEST_MESSAGE_BYTES);
        assert_eq!(encoding_of(&encoded), Some("gzip+base64"));
        assert!(value(&encoded, attribute::EVENT_TYPE).is_some(), "there is room for it");
        assert!(decode(&encoded).unwrap().body == body, "{learners} {note:?}");
    }
    let refused = message(notifications(18_000, "")).encode().err().unwrap();
    assert!((LARGEST_MESSAGE_BYTES + 1..LARGEST_MESSAGE_BYTES * 3 / 2).contains(&refused.bytes));
}

#[test]
fn whatever_fits_at_any_level_of_compression_is_compressed_to_fit() {
    let words = |vocabulary: usize| -> String {
        let noise = noise(20_000);
        let words: Vec<_> = (0..vocabulary).map(|n| &noise[n * 8..n * 8 + 3 + n % 5]).collect();
        noise.bytes().map(|byte| words[usize::from(byte) % vocabulary]).collect::<Vec<_>>().join(" ")
    };
    let two_letters: String =
        noise(30_000).bytes().map(|byte| if byte % 7 == 0 { 'b' } else { 'a' }).collect();
    let mut hurried = Vec::new();
    for body in [notifications(300, ""), words(50), words(90), two_letters, noise(20_000)] {
        let level = |level| gzip(body.as_bytes(), Compression::new(level)).len();
        let least = (1..=9).map(level).min().unwrap();
        let fitted = smaller(body.as_bytes(), least, || true).unwrap();
        assert!(fitted.len() <= least);
        hurried.push(smaller(body.as_bytes(), least, || false).is_err());
        assert_eq!(hurried.last(), Some(&(least < level(6))));
    }
    assert!(hurried.contains(&true) && hurried.contains(&false), "one of them needs another level");
}

#[test]
fn an_event_type_that_is_no_attribute_stays_in_the_body_only() {
    for event_type in ["", "a\u{0}b", &"x".repeat(257)] {
        let odd = Message { event_type: Some(event_type.to_owned()), ..message("{}") };
        assert_eq!(value(&odd.encode().unwrap(), attribute::EVENT_TYPE), None);
    }
}

#[test]
fn another_version_waits_for_its_consumer() {
    let mut encoded = message("{}").encode().unwrap();
    encoded.attributes[0].value = "2".to_owned();
    let error = decode(&encoded).unwrap_err();
    assert_eq!(error.class(), FailureClass::Retryable);
    let expected = "written in format version `2`; this consumer reads `1`, `part-1` and `replay-1`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_no_receiver_wrote_is_permanent() {
    let foreign = Message::decode("{}", |_| None).unwrap_err();
    assert_eq!(foreign.class(), FailureClass::Permanent);
    assert_eq!(foreign.to_string(), "not written by a receiver: the attribute `format-version` is missing");
}

#[test]
fn a_damaged_message_is_permanent_and_says_what_is_wrong() {
    let spoilt = [
        (attribute::ID, "a.b"),
        (attribute::TIMESTAMP, "soon"),
        (attribute::RECEIVED_AT, "99999999999999999"),
        (attribute::ENCODING, "zip"),
    ];
    for (name, spoilt) in spoilt {
        let encoded = message("\u{0}").encode().unwrap();
        let lookup = |wanted: &'static str| {
            if wanted == name { Some(spoilt) } else { value(&encoded, wanted) }
        };
        let error = Message::decode(&encoded.body, lookup).unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), format!("the attribute `{name}` is not what a receiver writes"));
    }
    for (body, problem) in [("%", "not base64"), ("AAAA", "not gzip")] {
        let encoded = message("\u{0}").encode().unwrap();
        let error = Message::decode(body, |name| value(&encoded, name)).unwrap_err();
        assert!(error.to_string().ends_with(problem), "{error}");
    }
}

#[test]
fn a_body_that_unpacks_beyond_what_lambda_takes_is_refused() {
    let encoded = message(vec![0; LARGEST_BODY_BYTES + 1]).encode().unwrap();
    let error = decode(&encoded).unwrap_err();
    assert!(error.to_string().ends_with("larger than Lambda takes"), "{error}");
    let largest = message(vec![0; LARGEST_BODY_BYTES]).encode().unwrap();
    assert_eq!(decode(&largest).unwrap().body.len(), LARGEST_BODY_BYTES);
}

#[test]
fn neither_body_nor_signature_is_printed() {
    let printed = format!("{:?}", message("+254705408079"));
    assert!(printed.contains("msg_p5jXN8AQM9LWM0D4loKWxJek"), "{printed}");
    assert!(printed.contains("body_bytes: 13"), "{printed}");
    assert!(
        !printed.contains("2547") && !printed.contains("v1,") && !printed.contains("g0hM9SsE"),
        "{printed}"
    );
}

fn ids() -> impl Strategy<Value = MessageId> {
    "[!-\\-/-~]{1,256}".prop_map(|id| MessageId::parse(&id).unwrap())
}

proptest! {
    #[test]
    fn any_bytes_come_back_the_same(
        id in ids(),
        signed_at_s in any::<i64>(),
        signature in "[ -~]{1,300}",
        received_at_ms in -1_000_000_000_000_i64..100_000_000_000_000,
        event_type in proptest::option::of("[a-z.]{1,40}"),
        window in proptest::option::of("[a-z0-9]{1,32}"),
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            "\\PC{0,200}".prop_map(String::into_bytes),
            (60_000_usize..70_000, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]),
        ],
    ) {
        let received_at = Timestamp::from_millisecond(received_at_ms).unwrap();
        let event_type = event_type.filter(|_| window.is_none());
        let sent = Message { id, signed_at_s, signature, received_at, event_type, body, part: None, window };
        let encoded = sent.clone().encode().unwrap();
        prop_assert!(!encoded.body.is_empty() && is_carried_as_text(&encoded.body));
        prop_assert!(encoded.attributes.len() <= 7);
        prop_assert_eq!(decode(&encoded).unwrap(), sent);
    }

    #[test]
    fn no_queue_message_makes_decoding_panic(
        body in any::<String>(),
        values in proptest::collection::vec(proptest::option::of(any::<String>()), 7),
    ) {
        let names = [
            attribute::FORMAT_VERSION, attribute::ID, attribute::TIMESTAMP, attribute::SIGNATURE,
            attribute::RECEIVED_AT, attribute::EVENT_TYPE, attribute::ENCODING,
        ];
        let lookup = |name: &'static str| {
            let index = names.iter().position(|known| *known == name)?;
            if index == 0 { Some(FORMAT_VERSION) } else { values[index].as_deref() }
        };
        let _ = Message::decode(&body, lookup);
    }
}

fn part_of_a_list() -> Message {
    let part = Part::parse("push/100-199/250").unwrap();
    Message { part: Some(part), ..message("{}") }
}

#[test]
fn a_part_has_a_version_of_its_own_and_room_for_the_reason_of_a_dead_letter() {
    let encoded = Message { body: vec![b'x'; 70_000], ..part_of_a_list() }.encode().unwrap();
    let names: Vec<_> = encoded.attributes.iter().map(|attribute| attribute.name).collect();
    assert!(names.contains(&attribute::PART) && names.contains(&attribute::ENCODING), "{names:?}");
    assert!(!names.contains(&attribute::EVENT_TYPE) && names.len() <= 7, "{names:?}");
    assert_eq!(encoded.attributes[0].value, PART_FORMAT_VERSION);
    let decoded = decode(&encoded).unwrap();
    assert_eq!(decoded.part.unwrap().to_string(), "push/100-199/250");
}

#[test]
fn a_consumer_that_does_not_know_parts_leaves_one_on_the_queue() {
    // The consumer of the previous version knows only format 1. Another version waits for its own consumer.
    assert_ne!(PART_FORMAT_VERSION, FORMAT_VERSION);
    let mut encoded = part_of_a_list().encode().unwrap();
    encoded.attributes[0].value = "3".to_owned();
    assert_eq!(decode(&encoded).unwrap_err().class(), FailureClass::Retryable);
}

fn sent_again_under_a_window() -> Message {
    Message { window: Some("1f0c".to_owned()), ..message("{}") }
}

#[test]
fn what_is_sent_again_under_a_window_names_it_and_has_room_for_the_reason_of_a_dead_letter() {
    let encoded = Message { body: vec![b'x'; 70_000], ..sent_again_under_a_window() }.encode().unwrap();
    let names: Vec<_> = encoded.attributes.iter().map(|attribute| attribute.name).collect();
    assert!(names.contains(&attribute::REPLAY_WINDOW) && names.contains(&attribute::ENCODING), "{names:?}");
    assert!(!names.contains(&attribute::EVENT_TYPE) && names.len() <= 7, "{names:?}");
    // A consumer that does not know it leaves an unknown version on the queue.
    assert_eq!(encoded.attributes[0].value, REPLAY_FORMAT_VERSION);
    assert_eq!(decode(&encoded).unwrap().window.as_deref(), Some("1f0c"));
}

#[test]
fn a_window_that_cannot_be_one_is_refused_and_not_taken_for_none() {
    for value in [None, Some(""), Some("1F0C"), Some("a b"), Some("a/b"), Some(&*"a".repeat(33))] {
        let mut encoded = sent_again_under_a_window().encode().unwrap();
        encoded.attributes.retain(|attribute| attribute.name != attribute::REPLAY_WINDOW);
        encoded.attributes.extend(value.map(|value| Attribute {
            name: attribute::REPLAY_WINDOW,
            data_type: STRING,
            value: value.to_owned(),
        }));
        assert_eq!(decode(&encoded).unwrap_err().class(), FailureClass::Permanent, "{value:?}");
    }
}

#[test]
fn a_part_that_cannot_be_read_is_refused_and_not_taken_for_the_whole_list() {
    for value in [None, Some("push/0-9"), Some("")] {
        let mut encoded = part_of_a_list().encode().unwrap();
        encoded.attributes.retain(|attribute| attribute.name != attribute::PART);
        if let Some(value) = value {
            encoded.attributes.push(Attribute {
                name: attribute::PART,
                data_type: STRING,
                value: value.to_owned(),
            });
        }
        assert_eq!(decode(&encoded).unwrap_err().class(), FailureClass::Permanent, "{value:?}");
    }
}
