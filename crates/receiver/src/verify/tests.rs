use proptest::prelude::*;

use super::*;
use crate::request::signature_headers;

/// Computed outside this code, so that a mistake shared by signer and verifier is found.
const VECTORS: [(&str, &str, i64, &str, &str); 3] = [
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
    (
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        1_731_705_121,
        r#"{"event_type":"ping","data":{"success":true}}"#,
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    ),
];

/// What is expected: the secret that matched, or the reason.
type Verdict = Result<SecretSlot, Refusal>;

/// Headers, some of them more than once.
type Groups<'a> = &'a [&'a [(&'a str, &'a str)]];

/// A change to a valid signature.
type Change<'a> = &'a dyn Fn(&str) -> String;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const NOW_S: i64 = 1_700_000_000;
const BODY: &str = r#"{"a": 1, "b": "é"}"#;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn sign(secret: &str, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let key = secret.strip_prefix("whsec_").unwrap();
    Webhook::new(key).unwrap().sign(id, timestamp_s, body).unwrap()
}

fn verified(secrets: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>, now_s: i64) -> Verdict {
    let headers = signature_headers(headers.iter().copied());
    let verified = Verifier::new(secrets).unwrap().verify(&headers, body.into(), at(now_s));
    verified.map(|webhook| webhook.secret()).map_err(|unverified| unverified.refusal)
}

/// A delivery with this id and time, genuine except for `change` to its signatures.
fn delivered(id: &str, timestamp: &str, change: impl Fn(&str) -> String) -> Verdict {
    let signature = change(&sign(SECRET, id, timestamp.parse().unwrap_or(NOW_S), BODY.as_bytes()));
    let headers = [("svix-id", id), ("svix-timestamp", timestamp), ("svix-signature", &signature)];
    verified(SECRET, &headers, BODY, NOW_S)
}

/// A genuine delivery except for its signatures.
fn signed_with(change: impl Fn(&str) -> String) -> Verdict {
    delivered(ID, "1700000000", change)
}

#[test]
fn the_published_vectors_verify_unless_their_key_is_too_short() {
    for (secret, id, timestamp, body, signature) in VECTORS {
        let headers =
            [("svix-id", id), ("svix-timestamp", &timestamp.to_string()), ("svix-signature", signature)];
        if let Err(error) = Verifier::new(secret) {
            assert_eq!(error, SecretError::TooShort { bytes: 18 });
            assert_eq!(sign(secret, id, timestamp, body.as_bytes()), signature);
        } else {
            assert_eq!(verified(secret, &headers, body, timestamp), Ok(SecretSlot::Current));
        }
    }
}

#[test]
fn a_webhook_is_what_was_signed() {
    let (secret, id, timestamp, body, signature) = VECTORS[1];
    let timestamp_header = timestamp.to_string();
    let headers = [("svix-id", id), ("svix-timestamp", &timestamp_header), ("svix-signature", signature)];
    let headers = signature_headers(headers);
    let webhook = Verifier::new(secret).unwrap().verify(&headers, body.into(), at(timestamp)).unwrap();
    assert_eq!(
        (webhook.id().as_str(), webhook.signed_at_s(), webhook.body()),
        (id, timestamp, body.as_bytes())
    );
}

#[test]
fn a_timestamp_is_digits_within_five_minutes() {
    for (timestamp, expected) in [
        ("1699999700", Ok(SecretSlot::Current)),
        ("1700000300", Ok(SecretSlot::Current)),
        ("1699999699", Err(Refusal::TimestampTooOld)),
        ("1700000301", Err(Refusal::TimestampInFuture)),
        ("1700000000000", Err(Refusal::TimestampInFuture)),
        ("+1700000000", Err(Refusal::MalformedHeader)),
        ("0001700000000", Err(Refusal::MalformedHeader)),
        (" 1700000000", Err(Refusal::MalformedHeader)),
        ("1700000000 ", Err(Refusal::MalformedHeader)),
        ("17000000 00", Err(Refusal::MalformedHeader)),
        ("1700000000.0", Err(Refusal::MalformedHeader)),
        ("1.7e9", Err(Refusal::MalformedHeader)),
        ("-1700000000", Err(Refusal::MalformedHeader)),
        ("1700000000\u{663}", Err(Refusal::MalformedHeader)),
        ("999999999999999999999999999999", Err(Refusal::MalformedHeader)),
        ("0", Err(Refusal::MalformedHeader)),
        ("", Err(Refusal::MalformedHeader)),
    ] {
        assert_eq!(delivered(ID, timestamp, str::to_owned), expected, "{timestamp:?}");
    }
}

#[test]
fn an_id_can_be_a_key_and_an_attribute() {
    let long = "x".repeat(256);
    for id in ["msg_1", "a-b_c,d", long.as_str()] {
        assert_eq!(delivered(id, "1700000000", str::to_owned), Ok(SecretSlot::Current), "{id:?}");
    }
    let too_long = "x".repeat(257);
    for id in ["", "a.b", "a b", " a", "a\tb", "a\nb", "a\u{0}b", "\u{7F}", "ä", too_long.as_str()] {
        assert_eq!(delivered(id, "1700000000", str::to_owned), Err(Refusal::UnusableId), "{id:?}");
    }
}

#[test]
fn one_right_signature_of_version_one_is_enough() {
    let cases: &[(Change<'_>, Verdict)] = &[
        (&|right| format!("v1,{} v2,x {right}   ", "A".repeat(43) + "="), Ok(SecretSlot::Current)),
        (&|right| format!("{}{right}", "v1,x ".repeat(15)), Ok(SecretSlot::Current)),
        (&|right| format!("{}{right}", "v1,x ".repeat(16)), Err(Refusal::TooManySignatures)),
        (&|right| right.replace("v1,", "v1a,"), Err(Refusal::UnsupportedVersion)),
        (&|right| right.replace("v1,", "V1,"), Err(Refusal::UnsupportedVersion)),
        (&|right| right.replace("v1,", ""), Err(Refusal::UnsupportedVersion)),
        (&|right| format!("{right},{right}"), Err(Refusal::NoMatchingSignature)),
        (&|right| right.trim_end_matches('=').to_owned(), Err(Refusal::NoMatchingSignature)),
        (&|right| right[..11].to_owned(), Err(Refusal::NoMatchingSignature)),
        (&|right| right.to_ascii_lowercase(), Err(Refusal::NoMatchingSignature)),
        (&|_| "v1,".to_owned(), Err(Refusal::NoMatchingSignature)),
        (&|_| String::new(), Err(Refusal::MalformedHeader)),
        (&|_| "  ".to_owned(), Err(Refusal::MalformedHeader)),
        (&|right| format!("{right}\n"), Err(Refusal::MalformedHeader)),
        (&|right| format!("{right}\t"), Err(Refusal::MalformedHeader)),
        (&|right| format!("v1,x\t{right}"), Err(Refusal::MalformedHeader)),
        (&|right| format!("{right} v1,é"), Err(Refusal::MalformedHeader)),
    ];
    for (number, (change, expected)) in cases.iter().enumerate() {
        assert_eq!(signed_with(change), *expected, "case {number}");
    }
}

#[test]
fn a_signature_in_the_url_safe_alphabet_is_refused() {
    // An id whose signature has a character that differs between the alphabets.
    let id = (0..1000)
        .map(|n| format!("msg_{n}"))
        .find(|id| sign(SECRET, id, NOW_S, BODY.as_bytes()).contains(['+', '/']));
    let url_safe = |right: &str| right.replace('+', "-").replace('/', "_");
    assert_eq!(delivered(&id.unwrap(), "1700000000", url_safe), Err(Refusal::NoMatchingSignature));
}

#[test]
fn either_family_of_headers_works_and_a_mixture_does_not() {
    let right = sign(SECRET, ID, NOW_S, BODY.as_bytes());
    let svix = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", right.as_str())];
    let unbranded = svix.map(|(name, value)| (name, value)).map(|(name, value)| match name {
        "svix-id" => ("webhook-id", value),
        "svix-timestamp" => ("webhook-timestamp", value),
        _ => ("webhook-signature", value),
    });
    let wrong = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", "v1,x")];
    let other_id = [("svix-id", "msg_2")];
    let cases: &[(Groups<'_>, Verdict)] = &[
        (&[&svix], Ok(SecretSlot::Current)),
        (&[&unbranded], Ok(SecretSlot::Current)),
        (&[&unbranded, &svix], Ok(SecretSlot::Current)),
        (&[&unbranded, &wrong], Err(Refusal::NoMatchingSignature)),
        (&[&svix[..1], &unbranded[1..]], Err(Refusal::MissingHeader)),
        (&[&unbranded[..1], &svix[1..]], Err(Refusal::MissingHeader)),
        (&[&svix[..2], &unbranded], Err(Refusal::MissingHeader)),
        (&[&svix[1..]], Err(Refusal::MissingHeader)),
        (&[&svix[..1], &svix[2..]], Err(Refusal::MissingHeader)),
        (&[&svix[..2]], Err(Refusal::MissingHeader)),
        (&[], Err(Refusal::MissingHeader)),
        (&[&svix, &other_id], Err(Refusal::MalformedHeader)),
        (&[&other_id, &svix], Err(Refusal::MalformedHeader)),
        (&[&svix, &svix[1..2]], Err(Refusal::MalformedHeader)),
        (&[&svix, &svix[2..]], Err(Refusal::MalformedHeader)),
    ];
    for (number, (headers, expected)) in cases.iter().enumerate() {
        assert_eq!(verified(SECRET, &headers.concat(), BODY, NOW_S), *expected, "case {number}");
    }
}

#[test]
fn a_body_written_differently_is_another_body() {
    let right = sign(SECRET, ID, NOW_S, BODY.as_bytes());
    let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", right.as_str())];
    assert_eq!(verified(SECRET, &headers, BODY, NOW_S), Ok(SecretSlot::Current));
    for body in [
        r#"{"a":1,"b":"é"}"#,
        r#"{"b": "é", "a": 1}"#,
        r#"{"a": 1, "b": "\u00e9"}"#,
        "{\"a\": 1, \"b\": \"e\u{301}\"}",
        "\u{FEFF}{\"a\": 1, \"b\": \"é\"}",
        "{\"a\": 1, \"b\": \"é\"}\r\n",
        "",
    ] {
        assert_eq!(verified(SECRET, &headers, body, NOW_S), Err(Refusal::NoMatchingSignature), "{body}");
    }
}

#[test]
fn an_empty_body_may_be_genuine() {
    let right = sign(SECRET, ID, NOW_S, b"");
    let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", right.as_str())];
    assert_eq!(verified(SECRET, &headers, "", NOW_S), Ok(SecretSlot::Current));
}

#[test]
fn a_body_that_is_not_utf8_is_refused() {
    let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", "v1,x")];
    assert_eq!(verified(SECRET, &headers, [0xFF], NOW_S), Err(Refusal::BodyNotUtf8));
}

#[test]
fn whoever_is_refused_gets_the_body_back_for_other_secrets() {
    let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", "v1,x")];
    let headers = signature_headers(headers);
    let unverified = Verifier::new(SECRET).unwrap().verify(&headers, BODY.into(), at(NOW_S)).err().unwrap();
    assert_eq!(unverified.body, BODY.as_bytes());
    assert_eq!(format!("{unverified:?}"), "Unverified(NoMatchingSignature)");
}

#[test]
fn during_a_rotation_both_secrets_verify_and_the_slot_is_known() {
    for (signer, slot) in [(SECRET, SecretSlot::Current), (OTHER, SecretSlot::Previous)] {
        let signature = sign(signer, ID, NOW_S, BODY.as_bytes());
        let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", &signature)];
        let secrets = format!(" {SECRET}  {OTHER}\n");
        assert_eq!(verified(&secrets, &headers, BODY, NOW_S), Ok(slot));

        let verifier = Verifier::new(SECRET).unwrap().and_previous(&Verifier::new(OTHER).unwrap());
        let webhook = verifier.verify(&signature_headers(headers), BODY.into(), at(NOW_S)).unwrap();
        assert_eq!(webhook.secret(), slot);
    }
}

#[test]
fn a_newest_signature_of_a_secret_that_is_not_held_is_noticed() {
    let right = sign(SECRET, ID, NOW_S, BODY.as_bytes());
    let other = sign(OTHER, ID, NOW_S, BODY.as_bytes());
    let both = format!("{SECRET} {OTHER}");
    for (secrets, signatures, expected) in [
        (SECRET, right.clone(), false),
        (&both, right.clone(), false),
        (&both, format!("{right} {other}"), false),
        (&both, format!("{other} {right}"), false),
        (SECRET, format!("{right} v1a,whatever"), false),
        // LearnInk changes to signatures that are not supported here.
        (SECRET, format!("v1a,whatever {right}"), true),
        (SECRET, format!("  v2,whatever v1a,whatever {right} "), true),
        (SECRET, format!("whatever {right}"), true),
        (&both, format!("v1a,whatever {right} {other}"), true),
        // The new secret was stored at once and the old one removed: nothing is left to do.
        (SECRET, format!("{right} {other}"), false),
        (SECRET, format!("{other} {right}"), true),
        (OTHER, format!("{right}  {other}"), true),
    ] {
        let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", &signatures)];
        let headers = signature_headers(headers);
        let webhook = Verifier::new(secrets).unwrap().verify(&headers, BODY.into(), at(NOW_S)).unwrap();
        assert_eq!(webhook.has_unknown_signature(), expected, "{signatures}");
    }
}

#[test]
fn secrets_that_are_added_again_and_again_are_there_once() {
    let held = Verifier::new(&format!("{SECRET} {OTHER}")).unwrap();
    let same = Verifier::new(SECRET).unwrap().and_previous(&held).and_previous(&held);
    assert_eq!(format!("{same:?}"), "Verifier(2 secrets)");
}

#[test]
fn a_secret_is_trimmed() {
    for secret in [
        format!("{SECRET}\n"),
        format!(" \t{SECRET} \r\n"),
        SECRET.replace("whsec_", ""),
        format!("\u{feff}{SECRET}\r\n"),
        format!("\u{200b}{SECRET}\u{a0}\u{2060}"),
        format!("\"{SECRET}\""),
        format!("\u{feff}' {SECRET}'\n"),
        format!("\u{201c}{SECRET}\u{201d}"),
    ] {
        let verifier = Verifier::new(&secret).unwrap();
        assert_eq!(verifier.secrets[0].key, Verifier::new(SECRET).unwrap().secrets[0].key, "{secret:?}");
    }
    for secrets in [
        format!("\"{SECRET} {OTHER}\""),
        format!("'{SECRET}' '{OTHER}'"),
        format!("{SECRET}\u{a0}\u{feff}{OTHER}\n\u{200b}\n"),
    ] {
        assert_eq!(format!("{:?}", Verifier::new(&secrets).unwrap()), "Verifier(2 secrets)", "{secrets:?}");
    }
}

#[test]
fn what_the_template_puts_in_place_of_a_secret_is_one() {
    assert!(Verifier::new("AbCdEfGhIjKlMnOpQrStUvWxYz012345").is_ok());
}

#[test]
fn an_unusable_secret_is_named_by_its_case_and_never_repeated() {
    let cases = [
        ("", SecretError::Empty),
        (" \n", SecretError::Empty),
        ("whsec_", SecretError::Empty),
        ("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Versioned),
        ("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::PublicKey),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::PrivateKey),
        ("\"\u{feff}\"", SecretError::Empty),
        ("whsec_MfKQ9r8GKYqr\u{200b}TwjUPD8ILPZIo2LaLaSw", SecretError::Invisible),
        ("whsec_MfKQ9r8GKYqr\u{ad}TwjUPD8ILPZIo2LaLaSw", SecretError::Invisible),
        ("whsec_MfKQ9r8GKYqr\"TwjUPD8ILPZIo2LaLaSw", SecretError::NotBase64),
        (r#"{"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#, SecretError::Json),
        ("whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD", SecretError::NotBase64),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", SecretError::NotBase64),
        ("whsec_plJ3nmyCDGBKInavdOK15jsl", SecretError::TooShort { bytes: 18 }),
    ];
    for (secret, expected) in cases {
        let error = Verifier::new(secret).unwrap_err();
        assert_eq!(error, expected, "{secret}");
        let said = error.to_string();
        assert!(secret.len() < 20 || !said.contains(&secret[secret.len() - 15..]), "{said}");
    }
}

#[test]
fn a_secret_of_another_kind_says_what_to_ask_learnink_for() {
    for prefix in ["whpk_", "whsk_"] {
        let said = Verifier::new(&SECRET.replace("whsec_", prefix)).unwrap_err().to_string();
        assert!(said.contains(prefix) && said.contains("ask") && said.contains("`whsec_`"), "{said}");
    }
}

#[test]
fn a_claimed_id_has_the_shape_of_one() {
    let claimed = |headers: &[(&str, &str)]| {
        let claimed = claimed_id(&signature_headers(headers.iter().copied()));
        claimed.map(|id| id.to_string())
    };
    assert_eq!(claimed(&[("svix-id", ID)]).as_deref(), Some(ID));
    assert_eq!(claimed(&[("webhook-id", ID)]).as_deref(), Some(ID));
    // The id that would have been verified.
    assert_eq!(claimed(&[("webhook-id", ID), ("svix-id", "msg_2")]).as_deref(), Some("msg_2"));
    let long = format!("msg_{}", "x".repeat(253));
    for headers in [
        &[][..],
        &[("svix-id", ID), ("svix-id", ID)],
        &[("webhook-id", ID), ("svix-timestamp", "1700000000")],
        &[("svix-id", "")],
        &[("svix-id", "a\nb")],
        &[("svix-id", "\u{1b}[2J")],
        &[("svix-id", "\u{202e}x")],
        &[("svix-id", "a b")],
        &[("svix-id", "msg_a.b")],
        &[("svix-id", "msg_+254705408079")],
        &[("svix-id", "+254705408079")],
        &[("svix-id", "Mary")],
        &[("svix-id", &long)],
    ] {
        assert_eq!(claimed(headers), None, "{headers:?}");
    }
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(body in "\\PC{1,80}", at_byte in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let right = sign(SECRET, ID, NOW_S, body.as_bytes());
        let headers = [("svix-id", ID), ("svix-timestamp", "1700000000"), ("svix-signature", right.as_str())];
        let mut changed = body.clone().into_bytes();
        let index = at_byte.index(changed.len());
        changed[index] ^= 1 << bit;
        prop_assert!(verified(SECRET, &headers, changed, NOW_S).is_err());
        prop_assert_eq!(verified(SECRET, &headers, body, NOW_S), Ok(SecretSlot::Current));
    }

    #[test]
    fn any_changed_character_of_a_signature_is_refused(at_byte in 3_usize..47, to in "[A-Za-z0-9+/=]") {
        let change = |right: &str| {
            let mut changed = right.to_owned();
            changed.replace_range(at_byte..=at_byte, &to);
            changed
        };
        let right = sign(SECRET, ID, NOW_S, BODY.as_bytes());
        prop_assert_eq!(signed_with(change).is_ok(), change(&right) == right);
    }
}
