use proptest::prelude::*;

use super::*;

/// Computed outside this code, so that a mistake shared by signer and verifier cannot hide.
const VECTORS: [(&str, &str, i64, &str, &str); 2] = [
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1_649_367_553,
        r#"{"email":"test@example.com","username":"test_user"}"#,
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        r#"{"test": 2432232314}"#,
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
];

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NOW_S: i64 = 1_700_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in values {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn sign(secret: &str, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    Webhook::new(secret).unwrap().sign(id, timestamp_s, body).unwrap()
}

/// Signs as LearnInk would, lets `change` spoil the headers, and verifies at `NOW_S`.
fn verify(id: &str, timestamp: &str, change: impl Fn(String) -> String) -> Result<SecretSlot, Refusal> {
    let signature = change(sign(SECRET, id, timestamp.parse().unwrap_or(NOW_S), b"{}"));
    let headers = headers(&[("svix-id", id), ("svix-timestamp", timestamp), ("svix-signature", &signature)]);
    let verified = Verifier::new(SECRET).unwrap().verify(&headers, b"{}".to_vec(), at(NOW_S));
    verified.map(|webhook| webhook.secret())
}

#[test]
fn the_published_vectors_verify() {
    for (secret, id, timestamp, body, signature) in VECTORS {
        let headers = headers(&[
            ("svix-id", id),
            ("svix-timestamp", &timestamp.to_string()),
            ("svix-signature", signature),
        ]);
        let verifier = Verifier::new(secret).unwrap();
        let webhook = verifier.verify(&headers, body.as_bytes().to_vec(), at(timestamp)).ok().unwrap();
        assert_eq!((webhook.id().as_str(), webhook.body()), (id, body.as_bytes()));
    }
}

#[test]
fn the_tolerance_is_five_minutes_to_the_second() {
    let verify_aged = |age: i64| verify("msg_1", &(NOW_S - age).to_string(), |valid| valid);
    assert_eq!(verify_aged(300), Ok(SecretSlot::Current));
    assert_eq!(verify_aged(-300), Ok(SecretSlot::Current));
    assert_eq!(verify_aged(301), Err(Refusal::TimestampTooOld));
    assert_eq!(verify_aged(-301), Err(Refusal::TimestampInFuture));
}

#[test]
fn a_timestamp_is_digits_without_a_leading_zero() {
    for timestamp in
        ["+1700000000", "0001700000000", "1700000000.0", "-1", "17000000 00", "", "9".repeat(30).as_str()]
    {
        assert_eq!(verify("msg_1", timestamp, |valid| valid), Err(Refusal::MalformedHeader), "{timestamp}");
    }
    assert_eq!(verify("msg_1", "1700000000000", |valid| valid), Err(Refusal::TimestampInFuture));
}

#[test]
fn an_id_that_could_not_be_a_key_is_refused() {
    for id in ["", "a.b", "a b", "a\tb", &"x".repeat(257)] {
        assert_eq!(verify(id, "1700000000", |valid| valid), Err(Refusal::UnusableId), "{id:?}");
    }
}

#[test]
fn any_signature_of_version_one_may_match() {
    let listed = |valid: String| format!("v1,{} v2,x {valid}   ", "A".repeat(44));
    assert_eq!(verify("msg_1", "1700000000", listed), Ok(SecretSlot::Current));

    let cases: [(&dyn Fn(String) -> String, Refusal); 7] = [
        (&|valid| format!("{} {valid}", "v1,x ".repeat(16)), Refusal::TooManySignatures),
        (&|valid| valid.replace("v1,", "v1a,"), Refusal::UnsupportedVersion),
        (&|valid| valid.replace("v1,", "V1,"), Refusal::UnsupportedVersion),
        (&|valid| valid.trim_end_matches('=').to_owned(), Refusal::NoMatchingSignature),
        (&|valid| valid[..11].to_owned(), Refusal::NoMatchingSignature),
        (&|valid| format!("{valid},{valid}"), Refusal::NoMatchingSignature),
        (&|_| " ".to_owned(), Refusal::MalformedHeader),
    ];
    for (change, refusal) in cases {
        assert_eq!(verify("msg_1", "1700000000", change), Err(refusal));
    }
}

#[test]
fn either_family_of_headers_works_and_a_mixture_does_not() {
    let signature = sign(SECRET, "msg_1", NOW_S, b"{}");
    let verified = |values: &[(&'static str, &str)]| {
        let verifier = Verifier::new(SECRET).unwrap();
        verifier.verify(&headers(values), b"{}".to_vec(), at(NOW_S)).map(|webhook| webhook.secret())
    };
    let unbranded =
        [("webhook-id", "msg_1"), ("webhook-timestamp", "1700000000"), ("webhook-signature", &signature)];
    assert_eq!(verified(&unbranded), Ok(SecretSlot::Current));

    let mixed =
        [("svix-id", "msg_1"), ("webhook-timestamp", "1700000000"), ("webhook-signature", &signature)];
    assert_eq!(verified(&mixed), Err(Refusal::MissingHeader));

    let wrong = [("svix-id", "msg_1"), ("svix-timestamp", "1700000000"), ("svix-signature", "v1,x")];
    assert_eq!(verified(&[unbranded, wrong].concat()), Err(Refusal::NoMatchingSignature));

    let twice = [
        ("svix-id", "msg_1"),
        ("svix-id", "msg_2"),
        ("svix-timestamp", "1700000000"),
        ("svix-signature", &signature),
    ];
    assert_eq!(verified(&twice), Err(Refusal::MalformedHeader));
    assert_eq!(verified(&[]), Err(Refusal::MissingHeader));
}

#[test]
fn during_a_rotation_both_secrets_verify_and_the_slot_is_known() {
    let verifier = Verifier::new(&format!(" {SECRET}  {OTHER}\n")).unwrap();
    for (secret, slot) in [(SECRET, SecretSlot::Current), (OTHER, SecretSlot::Previous)] {
        let signature = sign(secret, "msg_1", NOW_S, b"{}");
        let headers = headers(&[
            ("svix-id", "msg_1"),
            ("svix-timestamp", "1700000000"),
            ("svix-signature", &signature),
        ]);
        let webhook = verifier.verify(&headers, b"{}".to_vec(), at(NOW_S)).ok().unwrap();
        assert_eq!(webhook.secret(), slot);
    }
}

#[test]
fn a_body_that_is_not_utf8_is_refused() {
    let headers =
        headers(&[("svix-id", "msg_1"), ("svix-timestamp", "1700000000"), ("svix-signature", "v1,x")]);
    let refused = Verifier::new(SECRET).unwrap().verify(&headers, vec![0xFF], at(NOW_S));
    assert_eq!(refused.err(), Some(Refusal::BodyNotUtf8));
}

#[test]
fn an_unusable_secret_is_named_by_its_case_and_never_repeated() {
    let cases = [
        ("", SecretError::Empty),
        ("whsec_", SecretError::Empty),
        ("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Versioned),
        ("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::PublicKey),
        ("whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD", SecretError::NotBase64),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", SecretError::NotBase64),
        ("whsec_plJ3nmyCDGBKInavdOK15jsl", SecretError::TooShort { bytes: 18 }),
    ];
    for (secret, expected) in cases {
        let error = Verifier::new(secret).unwrap_err();
        assert_eq!(error, expected);
        let value = secret.trim_start_matches("whsec_");
        assert!(value.is_empty() || !error.to_string().contains(value), "{error}");
    }
}

#[test]
fn a_body_written_differently_is_another_body() {
    let signature = sign(SECRET, "msg_1", NOW_S, br#"{"a": 1, "b": 2}"#);
    let headers =
        headers(&[("svix-id", "msg_1"), ("svix-timestamp", "1700000000"), ("svix-signature", &signature)]);
    for body in [
        r#"{"a":1,"b":2}"#,
        r#"{"b": 2, "a": 1}"#,
        "\u{FEFF}{\"a\": 1, \"b\": 2}",
        "{\"a\": 1, \"b\": 2}\r\n",
    ] {
        let refused = Verifier::new(SECRET).unwrap().verify(&headers, body.into(), at(NOW_S));
        assert_eq!(refused.err(), Some(Refusal::NoMatchingSignature), "{body}");
    }
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(body in "\\PC{1,80}", at_byte in any::<prop::sample::Index>(), bit in 0_u8..7) {
        let signature = sign(SECRET, "msg_1", NOW_S, body.as_bytes());
        let headers = headers(&[
            ("svix-id", "msg_1"),
            ("svix-timestamp", "1700000000"),
            ("svix-signature", &signature),
        ]);
        let mut changed = body.into_bytes();
        let index = at_byte.index(changed.len());
        changed[index] ^= 1 << bit;
        prop_assert!(Verifier::new(SECRET).unwrap().verify(&headers, changed, at(NOW_S)).is_err());
    }
}
