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

/// Text that gzip cannot make smaller.
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
    for body in ["".into(), "\u{FFFE}".into(), "a\u{FFFF}".into(), "a\u{0}".into(), vec![0xFF]] {
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
    assert_eq!(largest.bytes(), LARGEST_MESSAGE_BYTES);

    let refused = message(noise(LARGEST_MESSAGE_BYTES - overhead + 1)).encode();
    assert_eq!(refused.err().unwrap().bytes, LARGEST_MESSAGE_BYTES + 1);
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
    assert_eq!(error.to_string(), "written in format version `2`; this consumer reads `1` and `part-1`");
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
}

#[test]
fn neither_body_nor_signature_is_printed() {
    let printed = format!("{:?}", message("+254705408079"));
    assert!(!printed.contains("2547") && !printed.contains("g0hM9SsE"), "{printed}");
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
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            "\\PC{0,200}".prop_map(String::into_bytes),
            (60_000_usize..70_000, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]),
        ],
    ) {
        let received_at = Timestamp::from_millisecond(received_at_ms).unwrap();
        let sent = Message { id, signed_at_s, signature, received_at, event_type, body, part: None };
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
    // The consumer of the version before knows format 1 alone. Another version waits for its own consumer.
    assert_ne!(PART_FORMAT_VERSION, FORMAT_VERSION);
    let mut encoded = part_of_a_list().encode().unwrap();
    encoded.attributes[0].value = "3".to_owned();
    assert_eq!(decode(&encoded).unwrap_err().class(), FailureClass::Retryable);
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
