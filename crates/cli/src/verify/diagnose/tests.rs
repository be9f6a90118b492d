use std::fmt::Write;

use learnink_receiver::signature_headers;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use svix::webhooks::Webhook;

use super::*;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_2Xbsq0kEJyo2hTb3Wd1vPzGk7mN";
const SIGNED_AT_S: i64 = 1_700_000_000;
const COMPACT: &str = r#"{"object":"event","type":"user.course.started","api_version":"2022-11-15","data":{"user_id":"le2b/6Fi","custom_id":null,"phone_number":"+254705408079","course_id":"Zoë 🎉"},"timestamp":"2022-11-04T09:58:58.233Z"}"#;

/// A delivery, and the secrets to verify it with.
#[derive(Clone)]
struct Case {
    id: String,
    timestamp: String,
    signature: String,
    body: Vec<u8>,
    secret: String,
    other: Option<String>,
}

fn signed(key: &[u8], id: &str, timestamp_s: i64, body: &str) -> String {
    Webhook::from_bytes(key.to_vec()).unwrap().sign(id, timestamp_s, body.as_bytes()).unwrap()
}

fn key() -> Vec<u8> {
    BASE64.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap()
}

impl Case {
    /// A genuine delivery of a body.
    fn genuine(body: &str) -> Self {
        Self {
            id: ID.to_owned(),
            timestamp: SIGNED_AT_S.to_string(),
            signature: signed(&key(), ID, SIGNED_AT_S, body),
            body: body.into(),
            secret: SECRET.to_owned(),
            other: None,
        }
    }

    fn delivery(&self) -> Delivery {
        let headers = [
            ("svix-id", self.id.as_str()),
            ("svix-timestamp", &self.timestamp),
            ("svix-signature", &self.signature),
        ];
        let headers = signature_headers(headers);
        Delivery { headers, body: Some(self.body.clone()), ..Delivery::default() }
    }

    fn sources(&self) -> Vec<SecretSource> {
        let source = |label: &str, text: &str, role| SecretSource {
            label: label.to_owned(),
            text: text.to_owned(),
            role,
        };
        let receiver = source("secret.txt", &self.secret, Role::Receiver);
        let other = self.other.as_ref().map(|other| source("other.txt", other, Role::Other));
        std::iter::once(receiver).chain(other).collect()
    }

    fn diagnosed(&self) -> Diagnosis {
        diagnose(&self.delivery(), &self.sources(), None)
    }

    /// The names of the mistakes; an error for another verdict.
    fn mistakes(&self) -> Result<Vec<&'static str>, Verdict> {
        match self.diagnosed().verdict {
            Verdict::Mistaken(mistakes) => Ok(mistakes.iter().map(|mistake| mistake.name()).collect()),
            verdict => Err(verdict),
        }
    }
}

/// As `JSON.stringify(x, null, 2)` writes it.
fn indented(body: &str) -> String {
    indented_by(body, "  ")
}

fn indented_by(body: &str, indent: &str) -> String {
    let body = serde_json::from_str::<Box<serde_json::value::RawValue>>(body).unwrap();
    let mut text = String::new();
    let (mut level, mut is_text, mut escaped) = (0_usize, false, false);
    let line = |text: &mut String, level: usize| {
        let _ = write!(text, "\n{}", indent.repeat(level));
    };
    for c in body.get().chars() {
        match c {
            _ if is_text => {
                text.push(c);
                is_text = c != '"' || escaped;
                escaped = c == '\\' && !escaped;
            }
            '"' => {
                is_text = true;
                text.push(c);
            }
            '{' | '[' => {
                level += 1;
                text.push(c);
                line(&mut text, level);
            }
            '}' | ']' => {
                level -= 1;
                line(&mut text, level);
                text.push(c);
            }
            ',' => {
                text.push(c);
                line(&mut text, level);
            }
            ':' => text.push_str(": "),
            c if c.is_whitespace() => {}
            c => text.push(c),
        }
    }
    text
}

/// As Python's `json.dumps` writes it, except for escapes.
fn spaced(body: &str) -> String {
    let lines: Vec<_> = indented_by(body, "").lines().map(str::to_owned).collect();
    let joined = lines.join("\u{1}");
    joined.replace(",\u{1}", ", ").replace('\u{1}', "")
}

/// As PHP and Python escape what is not ASCII.
fn ascii(body: &str) -> String {
    let mut text = String::new();
    for c in body.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| write!(text, "\\u{unit:04x}").unwrap());
        }
    }
    text
}

fn sorted(body: &str) -> String {
    // The map of `serde_json` is sorted.
    serde_json::from_str::<Value>(body).unwrap().to_string()
}

type Mutation = (&'static str, fn(&mut Case));

fn change(case: &mut Case, change: impl FnOnce(&str) -> String) {
    case.body = change(str::from_utf8(&case.body).unwrap()).into();
}

/// The same, without what is behind the JSON.
fn change_json(case: &mut Case, json: impl FnOnce(&str) -> String) {
    change(case, |body| format!("{}{}", json(body.trim_end()), if body.ends_with('\n') { "\n" } else { "" }));
}

fn sign_with(case: &mut Case, key: &[u8]) {
    case.signature = signed(key, ID, SIGNED_AT_S, str::from_utf8(&case.body).unwrap());
}

/// The mistakes that are made with a genuine delivery: first those with which it was signed or written, last those of
/// how it was sent.
const MUTATIONS: [Mutation; 33] = [
    ("secret_as_text", |case| sign_with(case, SECRET.as_bytes())),
    ("secret_as_text", |case| sign_with(case, SECRET.strip_prefix("whsec_").unwrap().as_bytes())),
    ("secret_as_text_with_line_break", |case| sign_with(case, format!("{SECRET}\n").as_bytes())),
    ("secret_as_text_in_quotes", |case| sign_with(case, format!("\"{SECRET}\"").as_bytes())),
    ("secret_prefix_decoded", |case| {
        // As Node's `Buffer.from(secret, "base64")` decodes it.
        sign_with(case, &keys::lenient(&SECRET.replace('_', "/")).unwrap());
    }),
    ("other_secret", |case| case.other = Some(std::mem::replace(&mut case.secret, OTHER.to_owned()))),
    ("milliseconds_signed", |case| {
        let body = str::from_utf8(&case.body).unwrap().to_owned();
        case.signature = signed(&key(), ID, SIGNED_AT_S * 1000, &body);
    }),
    ("members_sorted", |case| change_json(case, sorted)),
    ("body_indentation", |case| change_json(case, indented)),
    ("body_indentation", |case| change_json(case, |body| indented_by(body, "    "))),
    ("body_indentation", |case| change_json(case, |body| indented_by(body, "\t"))),
    ("body_spacing", |case| change_json(case, spaced)),
    ("body_escaped", |case| change(case, ascii)),
    ("slashes_escaped", |case| change(case, |body| body.replace('/', "\\/"))),
    ("body_read_as_latin1", |case| {
        case.body = case.body.iter().copied().map(char::from).collect::<String>().into();
    }),
    ("last_line_break_added", |case| case.body.push(b'\n')),
    ("last_line_break_added", |case| case.body.extend(b"\r\n")),
    ("crlf_added", |case| change(case, |body| body.replace('\n', "\r\n"))),
    ("bom_added", |case| change(case, |body| format!("\u{feff}{body}"))),
    ("body_quoted", |case| change(case, |body| serde_json::to_string(body).unwrap())),
    ("body_in_base64", |case| change(case, |body| BASE64.encode(body))),
    ("secret_version", |case| case.secret = format!("v1,{}", case.secret)),
    ("secret_surroundings", |case| case.secret = case.secret.replacen("sBQ", "sBQ\n  ", 1)),
    ("secret_surroundings", |case| case.secret = format!("SIGNING_SECRET='{}'", case.secret)),
    ("secret_surroundings", |case| case.secret = format!("{{\"secret\":\"{}\"}}", case.secret)),
    ("secret_alphabet", |case| case.secret = case.secret.replace('+', "-")),
    ("secret_encoded_twice", |case| case.secret = BASE64.encode(format!("{}\n", case.secret))),
    ("id_and_timestamp_swapped", |case| std::mem::swap(&mut case.id, &mut case.timestamp)),
    ("timestamp_in_milliseconds", |case| case.timestamp.push_str("000")),
    ("timestamp_as_date", |case| case.timestamp = "2023-11-14T22:13:20Z".to_owned()),
    ("header_joined", |case| {
        for value in [&mut case.id, &mut case.timestamp, &mut case.signature] {
            *value = format!("{value},{value}");
        }
    }),
    ("signature_encoding", |case| case.signature = case.signature.replace("v1,", "")),
    ("signature_encoding", |case| case.signature = case.signature.replace('=', "")),
];

#[test]
fn each_known_mistake_alone_is_named() {
    for (name, mutate) in MUTATIONS {
        let mut case = Case::genuine(if name == "crlf_added" { "{\n\"a\": 1\n}" } else { COMPACT });
        mutate(&mut case);
        assert_eq!(case.mistakes(), Ok(vec![name]), "{name}");
    }
}

#[test]
fn what_was_signed_in_another_form_is_named() {
    let indented = indented(COMPACT);
    let escaped = ascii(COMPACT);
    let slashes = COMPACT.replace('/', "\\/");
    let by_name = sorted(COMPACT);
    for (signed, given, expected) in [
        (indented.as_str(), COMPACT, "body_indentation"),
        (&spaced(COMPACT), COMPACT, "body_spacing"),
        (&escaped, COMPACT, "unicode_unescaped"),
        (&slashes, COMPACT, "slashes_unescaped"),
        (&by_name, COMPACT, "members_not_sorted"),
        (&format!("{COMPACT}\n"), COMPACT, "last_line_break_removed"),
        (&format!("\u{feff}{COMPACT}"), COMPACT, "bom_removed"),
        (&indented.replace('\n', "\r\n"), &indented, "crlf_removed"),
        (&BASE64.encode(COMPACT), COMPACT, "body_signed_in_base64"),
    ] {
        let case = Case { body: given.into(), ..Case::genuine(signed) };
        assert_eq!(case.mistakes(), Ok(vec![expected]));
    }
}

#[test]
fn a_genuine_delivery_is_verified_with_what_is_around_a_secret() {
    for secret in [SECRET.to_owned(), format!("\u{feff}\"{SECRET}\"\r\n"), format!("{OTHER} {SECRET}")] {
        let diagnosis = Case { secret, ..Case::genuine(COMPACT) }.diagnosed();
        assert_eq!(diagnosis.verdict, Verdict::Verified, "{diagnosis:?}");
    }
    let empty = Case::genuine("").diagnosed();
    assert_eq!((empty.verdict, empty.combinations), (Verdict::Verified, 1));
}

#[test]
fn a_secret_is_named_by_its_place() {
    let secret = format!("{SECRET}\nwhsec_plJ3nmyCDGBKInavdOK15jslAAAAAAAA");
    let swapped = Case { secret: OTHER.to_owned(), other: Some(secret), ..Case::genuine(COMPACT) };
    let diagnosis = swapped.diagnosed();
    let name = SecretName { label: "other.txt".to_owned(), position: 1, of: 2 };
    assert_eq!(diagnosis.secret, Some(name));
    let previous = Case { secret: format!("{OTHER} {SECRET}"), ..Case::genuine(COMPACT) }.diagnosed();
    let name = SecretName { label: "secret.txt".to_owned(), position: 2, of: 2 };
    assert_eq!(previous.secret, Some(name));
    let signature = previous.checks.iter().find(|(check, _)| *check == Check::Signature).unwrap();
    assert_eq!(signature.1, Judgement::Ok("made with a previous secret".to_owned()));
}

#[test]
fn the_example_of_the_guide_with_an_indented_body_is_recognised() {
    // The headers as the guide has them. Their signature is of the published example, which was signed earlier.
    let guide = Case {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned(),
        timestamp: "1668698818".to_owned(),
        signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned(),
        body: "{\n  \"test\": 2432232314\n}".into(),
        secret: OTHER.to_owned(),
        ..Case::genuine("")
    };
    assert_eq!(guide.mistakes(), Ok(vec!["timestamp_of_guide", "body_indentation"]));
    let Verdict::Mistaken(mistakes) = guide.diagnosed().verdict else { panic!() };
    assert!(mistakes[1].explanation().starts_with("The body was re-indented. It was signed on one line"));
    let as_signed = Case { timestamp: "1614265330".to_owned(), ..guide.clone() };
    assert_eq!(as_signed.mistakes(), Ok(vec!["body_indentation"]));
    let own_secret = Case { secret: SECRET.to_owned(), ..guide }.diagnosed();
    assert_eq!(own_secret.verdict, Verdict::NotFound);
    assert!(own_secret.advice[0].contains("the example in LearnInk's guide"), "{:?}", own_secret.advice);
}

/// The judgements of a case, with a change to its delivery.
fn judged(change: impl FnOnce(&mut Delivery), now: Option<i64>) -> (Vec<String>, Verdict) {
    let case = Case::genuine(COMPACT);
    let mut delivery = case.delivery();
    change(&mut delivery);
    let now = now.map(|now| Timestamp::from_second(now).unwrap());
    let diagnosis = diagnose(&delivery, &case.sources(), now);
    let checks = diagnosis.checks.iter().map(|(check, judgement)| match judgement {
        Judgement::Ok(_) => format!("{} ok", check.name()),
        Judgement::Failed(problem) => format!("{} failed: {problem}", check.name()),
        Judgement::NotJudged(fact) => format!("{} not judged: {fact}", check.name()),
        Judgement::NotReached => format!("{} not reached", check.name()),
    });
    (checks.collect(), diagnosis.verdict)
}

#[test]
fn the_checks_are_the_receivers_in_its_order() {
    let (checks, verdict) = judged(|_| (), None);
    let expected = [
        "secret ok",
        "size ok",
        "headers ok",
        "id ok",
        "timestamp ok",
        "age not judged: signed at 2023-11-14 22:13:20Z; its age is not judged without --now",
        "signature ok",
    ];
    assert_eq!((checks, verdict), (expected.map(str::to_owned).to_vec(), Verdict::Verified));
}

#[test]
fn a_failed_check_says_what_to_do_and_what_is_not_reached() {
    let value = |text: &str| http::HeaderValue::from_str(text).unwrap();
    for (change, failed, verdict) in [
        (
            &(|delivery: &mut Delivery| drop(delivery.headers.remove("svix-timestamp")))
                as &dyn Fn(&mut Delivery),
            "headers failed: a signature header is missing: svix-timestamp; give all three as they were sent, or find \
             the proxy that removes it",
            Verdict::Incomplete,
        ),
        (
            &|delivery| {
                let value = delivery.headers.remove("svix-timestamp").unwrap();
                delivery.headers.insert("webhook-timestamp", value);
            },
            "headers failed: a signature header is missing: svix-timestamp; svix-* and webhook-* cannot be mixed, so \
             give the three of one kind",
            Verdict::Genuine,
        ),
        (
            &|delivery| {
                delivery.headers.append("svix-id", value(ID));
            },
            "headers failed: a signature header is malformed: svix-id occurs more than once; send it once, or find the \
             proxy that adds it",
            Verdict::Genuine,
        ),
        (
            &|delivery| drop(delivery.headers.insert("svix-id", value("msg.1"))),
            "id failed: the message id is empty, over 256 bytes, or has a character other than visible ASCII without \
             `.`; take svix-id as it was sent",
            Verdict::NotFound,
        ),
        (
            &|delivery| drop(delivery.headers.insert("svix-timestamp", value("1700000000000"))),
            "timestamp failed: the signature is from the future; it is Unix seconds, ten digits, as they were sent",
            Verdict::Mistaken(vec![Mistake::TimestampInMilliseconds]),
        ),
        (
            &|delivery| delivery.body = None,
            "size failed: the body is not base64; take the event as Lambda received it",
            Verdict::Incomplete,
        ),
        (
            &|delivery| delivery.body = Some(vec![b' '; LARGEST_BODY_BYTES + 1]),
            "size failed: the body has 6291457 bytes, and a request has 6291456 at most; give one delivery alone",
            Verdict::Incomplete,
        ),
        (
            &|delivery| drop(delivery.headers.insert("svix-signature", value(&"v1,x ".repeat(17)))),
            "signature failed: there are too many signatures; a rotation needs two",
            Verdict::NotFound,
        ),
        (
            &|delivery| delivery.body.as_mut().unwrap().push(b'x'),
            "signature failed: no signature matches",
            Verdict::NotFound,
        ),
    ] {
        let (checks, found) = judged(change, None);
        assert!(checks.iter().any(|check| check == failed), "{failed}: {checks:?}");
        assert_eq!(found, verdict, "{failed}");
        assert_eq!(checks.iter().filter(|check| check.contains(" failed")).count(), 1, "{checks:?}");
    }
}

#[test]
fn the_age_is_judged_when_a_time_is_known() {
    let old = "age failed: the signature is too old: signed at 2023-11-14 22:13:20Z, 5m 1s before --now, and five \
               minutes are allowed; each attempt is signed anew";
    let (checks, verdict) = judged(|_| (), Some(SIGNED_AT_S + 301));
    assert!(checks.iter().any(|check| check == old), "{checks:?}");
    assert_eq!(verdict, Verdict::Genuine);
    let received = |seconds| {
        let received_at = Some(Timestamp::from_second(SIGNED_AT_S + seconds).unwrap());
        judged(|delivery| delivery.received_at = received_at, None)
    };
    assert_eq!(received(2).1, Verdict::Verified);
    let (checks, _) = received(-86_400 * 30);
    assert!(checks.iter().any(|check| check.contains("30 days after it was received")), "{checks:?}");
}

#[test]
fn what_was_not_found_says_what_to_look_at() {
    let case = Case { body: format!("{}x", indented(COMPACT)).into(), ..Case::genuine(COMPACT) };
    let diagnosis = case.diagnosed();
    assert_eq!(diagnosis.verdict, Verdict::NotFound);
    assert!(diagnosis.advice.iter().any(|advice| advice.contains("of the same attempt")));
    let mut delivery = case.delivery();
    delivery.content_length = Some(7);
    delivery.body = Some(sorted(r#"{"object":1,"data":2}"#).into());
    let advice = diagnose(&delivery, &case.sources(), None).advice.join("\n");
    for part in [
        "content-length says 7 bytes, and the body has 21",
        "in the order of their names",
        "--other-secret-file",
    ] {
        assert!(advice.contains(part), "{part}: {advice}");
    }
    let cut = Case { signature: "v1,g0hM9SsE".to_owned(), ..case }.diagnosed();
    assert!(cut.advice[0].contains("it may have been cut"), "{:?}", cut.advice);
}

#[test]
fn the_search_has_an_end() {
    let secrets = |count: usize| {
        let secret = |number: usize| format!("whsec_{}", BASE64.encode(number.to_be_bytes().repeat(3)));
        (0..count).map(secret).collect::<Vec<_>>().join(" ")
    };
    for (count, most) in [(1, 700), (2, 1_000), (40, 6_000)] {
        let body = format!("{} ", indented(COMPACT).replace('\n', "\r\n"));
        let case = Case { secret: secrets(count), body: body.into(), ..Case::genuine(COMPACT) };
        let diagnosis = case.diagnosed();
        assert_eq!(diagnosis.verdict, Verdict::NotFound);
        assert!((100..most).contains(&diagnosis.combinations), "{count}: {}", diagnosis.combinations);
    }
}

/// A body without white space, and as a program signs it.
fn bodies() -> impl Strategy<Value = (String, String)> {
    let text = prop_oneof!["[ -~]{0,12}", "[a-zäß/€\"\\\\🎉]{0,8}"];
    let body =
        (text.clone(), any::<i32>(), prop::collection::vec(text, 0..3)).prop_map(|(name, number, list)| {
            let data = format!(r#"{{"user_id":{},"course_id":{number}}}"#, serde_json::json!(name));
            let list = serde_json::json!(list);
            format!(r#"{{"object":"event","type":"t","data":{data},"timestamp":{list}}}"#)
        });
    let written: [fn(&str) -> String; 4] = [str::to_owned, spaced, ascii, |body| format!("{body}\n")];
    (body, select(written.to_vec())).prop_map(|(body, written)| (body.clone(), written(&body)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn one_mistake_or_two_are_named_or_honestly_not_found(
        (compact, signed) in bodies(),
        one in 0..MUTATIONS.len(),
        two in prop::option::of(0..MUTATIONS.len()),
        tampers in any::<bool>(),
    ) {
        let mut made: Vec<_> = std::iter::once(one).chain(two).collect();
        made.sort_unstable();
        made.dedup();
        let mutations: Vec<_> = made.iter().map(|index| MUTATIONS[*index]).collect();
        let signs = |name: &str| name.starts_with("secret_as") || name == "secret_prefix_decoded" || name == "milliseconds_signed";
        // A delivery is signed once.
        prop_assume!(mutations.iter().filter(|(name, _)| signs(name)).count() < 2);
        // The map that sorts members forgets escapes and white space too.
        let is_sorted = mutations.iter().any(|(name, _)| *name == "members_sorted");
        let body = if is_sorted { compact } else { signed };
        let genuine = Case::genuine(&body);
        let mut case = genuine.clone();
        for (_, mutate) in &mutations {
            mutate(&mut case);
        }
        if tampers {
            // No mistake explains another number.
            case.body.extend(b"1");
        }
        let diagnosis = case.diagnosed();
        let expected: Vec<_> = mutations.iter().map(|(name, _)| *name).collect();
        match &diagnosis.verdict {
            Verdict::Verified => {
                prop_assert!(!tampers);
                // What was done changes nothing for the receiver.
                prop_assert_eq!(&case.body, &genuine.body);
                prop_assert_eq!((&case.id, &case.timestamp), (&genuine.id, &genuine.timestamp));
            }
            Verdict::Mistaken(mistakes) => {
                prop_assert!(!tampers, "{mistakes:?}");
                let names: Vec<_> = mistakes.iter().map(|mistake| mistake.name()).collect();
                prop_assert!(names.len() <= 2, "{:?}", names);
                prop_assert!(!names.is_empty() && diagnosis.secret.is_some());
                for name in names {
                    prop_assert!(is_a_name_of(name, &expected), "{} of {:?}", name, expected);
                }
            }
            Verdict::NotFound => prop_assert!(
                tampers || !is_always_found(&mutations), "{:?} {:?}", expected, body
            ),
            // Signed and sent in milliseconds, which the receiver does not take.
            Verdict::Genuine => {
                prop_assert_eq!(expected, ["milliseconds_signed", "timestamp_in_milliseconds"]);
            }
            Verdict::Incomplete => prop_assert!(false, "{expected:?}"),
        }
        // Nothing that is kept has a secret or a signature.
        let printed = format!("{diagnosis:?}");
        for hidden in [SECRET, &SECRET[6..], OTHER, &genuine.signature[3..], &case.signature] {
            prop_assert!(!printed.contains(hidden), "{printed}");
        }
    }
}

/// Whether a mistake is one of those that were made. The white space of JSON is one mistake, whatever was done to it.
fn is_a_name_of(name: &str, made: &[&str]) -> bool {
    let is_spacing = |name: &str| {
        let at_the_end = ["last_line_break_added", "last_line_break_removed", "crlf_added"].contains(&name);
        at_the_end || ["body_indentation", "body_spacing", "members_sorted"].contains(&name)
    };
    made.contains(&name) || (is_spacing(name) && made.iter().copied().any(is_spacing))
}

/// Whether the mistakes can be undone: all can alone, and two if they change different parts.
fn is_always_found(mutations: &[Mutation]) -> bool {
    let part = |name: &str| match name {
        "id_and_timestamp_swapped"
        | "timestamp_in_milliseconds"
        | "timestamp_as_date"
        | "milliseconds_signed" => 0,
        "header_joined" | "signature_encoding" => 1,
        name if name.contains("secret") => 2,
        _ => 3,
    };
    match mutations {
        [(one, _), (two, _)] => part(one) != part(two),
        _ => true,
    }
}
