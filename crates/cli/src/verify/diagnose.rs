//! Why a signature fails: the receiver's own checks, and then a search among the known mistakes.
//!
//! A plain function of a delivery and of secrets. A mistake is named only if HMAC proves it: with it undone, the
//! signature is valid for one of the secrets.

use std::collections::HashMap;
use std::ops::ControlFlow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use learnink_receiver::request::{SVIX_HEADERS, WEBHOOK_HEADERS};
use learnink_receiver::verify::{
    SecretError, check_age, signature_header_names, signed_at_s, signed_headers,
};
use learnink_receiver::{Refusal, SecretSlot, Verifier};
use learnink_webhook::MessageId;
use learnink_webhook::config::listed_secrets;
use learnink_webhook::message::LARGEST_BODY_BYTES;
use ring::{digest, hmac};

use super::bodies;
use super::json_text::{Json, Order, Spacing};
use super::keys::{self, MOST_SECRETS};
use super::mistake::Mistake;
use crate::table;

/// The most mistakes at a time that are looked for.
const MOST_MISTAKES: usize = 2;

/// The example of LearnInk's guide: its id, and the time at which it was signed, which is not the one that the guide
/// shows. It is an example of Standard Webhooks. Source: LearnInk, "Webhook guide"; Svix, "Verifying Payloads".
const GUIDE_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const GUIDE_SIGNED_AT_S: &str = "1614265330";

/// A request as it arrived.
#[derive(Default)]
pub(super) struct Delivery {
    /// The signature headers; see [`learnink_receiver::signature_headers`].
    pub(super) headers: HeaderMap,
    /// `None` if it claims to be base64 and is not.
    pub(super) body: Option<Vec<u8>>,
    /// The body's length when it was sent, if a header says so.
    pub(super) content_length: Option<usize>,
    /// When it was received, if the input says so.
    pub(super) received_at: Option<Timestamp>,
}

/// One secret or several, from one place.
pub(super) struct SecretSource {
    /// The place, for a person.
    pub(super) label: String,
    /// The secrets, separated by white space.
    pub(super) text: String,
    pub(super) role: Role,
}

/// Whose secrets a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The receiver's.
    Receiver,
    /// Others, which may have been used by mistake.
    Other,
}

/// What the receiver checks, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// When it starts.
    Secret,
    Size,
    Headers,
    Id,
    Timestamp,
    Age,
    Signature,
}

/// The result of a check, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Ok(String),
    Failed(String),
    /// Not known here, and no reason to refuse.
    NotJudged(String),
    /// The receiver does not get that far.
    NotReached,
}

/// What a delivery's signature is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The receiver accepts it.
    Verified,
    /// The signature is genuine. The receiver refuses it because of another check.
    Genuine,
    /// The signature is genuine once these mistakes are undone.
    Mistaken(Vec<Mistake>),
    /// No known mistake makes it match.
    NotFound,
    /// A part of it is missing, so that there is nothing to compare.
    Incomplete,
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretName {
    pub(super) label: String,
    /// From 1.
    pub(super) position: usize,
    /// How many its source has.
    pub(super) of: usize,
}

/// Why a signature fails, or that it does not. It has no secret, no signature and nothing of the body.
#[derive(Debug)]
pub(super) struct Diagnosis {
    pub(super) checks: Vec<(Check, Judgement)>,
    pub(super) verdict: Verdict,
    /// The secret that the signature was made with, if it was found.
    pub(super) secret: Option<SecretName>,
    /// How many combinations of id, timestamp, body and key were compared.
    pub(super) combinations: usize,
    /// What to look at next, if no mistake was found.
    pub(super) advice: Vec<String>,
}

impl Check {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Size => "size",
            Self::Headers => "headers",
            Self::Id => "id",
            Self::Timestamp => "timestamp",
            Self::Age => "age",
            Self::Signature => "signature",
        }
    }
}

/// Checks a delivery as a receiver with the secrets of [`Role::Receiver`] does, and looks for the mistakes that explain
/// a signature that does not match. Its age is judged at `now`, or else when it was received, or else not at all.
pub(super) fn diagnose(delivery: &Delivery, sources: &[SecretSource], now: Option<Timestamp>) -> Diagnosis {
    let checks = check(delivery, sources, now);
    let is_verified =
        checks.iter().all(|(_, judgement)| matches!(judgement, Judgement::Ok(_) | Judgement::NotJudged(_)));
    let most = if is_verified { 0 } else { MOST_MISTAKES };
    let Some(search) = Search::new(delivery, sources) else {
        let advice =
            vec!["Give the id, the timestamp, the signature and the body of one delivery.".to_owned()];
        return Diagnosis { checks, verdict: Verdict::Incomplete, secret: None, combinations: 0, advice };
    };
    let (found, combinations) = search.run(most);
    let secret = found.as_ref().map(|found| found.secret.clone());
    let verdict = match found {
        _ if is_verified => Verdict::Verified,
        Some(Found { mistakes, .. }) if mistakes.is_empty() => Verdict::Genuine,
        Some(Found { mistakes, .. }) => Verdict::Mistaken(mistakes),
        None => Verdict::NotFound,
    };
    let mut advice = if verdict == Verdict::NotFound { advice(delivery, sources) } else { Vec::new() };
    if verdict == Verdict::NotFound && search.tags.is_empty() {
        advice.insert(
            0,
            "svix-signature has no HMAC-SHA256 in it: it may have been cut. Take it as it was sent."
                .to_owned(),
        );
    }
    Diagnosis { checks, verdict, secret, combinations, advice }
}

/// The receiver's checks.
fn check(delivery: &Delivery, sources: &[SecretSource], now: Option<Timestamp>) -> Vec<(Check, Judgement)> {
    let mut checks = Checks::default();
    let verifier = receivers(sources);
    let verifier = checks.add(Check::Secret, usable(verifier, sources));
    let body = checks.add(Check::Size, size(delivery));
    let headers = checks.add(Check::Headers, headers(&delivery.headers));
    let id = headers.and_then(|[id, ..]| {
        let parsed = MessageId::parse(id);
        checks.add(
            Check::Id,
            parsed
                .map(|_| ((), "usable".to_owned()))
                .map_err(|error| format!("{error}; take svix-id as it was sent")),
        )
    });
    let signed_at =
        id.and(headers).and_then(|[_, timestamp, _]| checks.add(Check::Timestamp, signed_at(timestamp)));
    let Some((signed_at_s, signed_at)) = signed_at else { return checks.complete() };

    match now.or(delivery.received_at) {
        None => checks.judge(
            Check::Age,
            Judgement::NotJudged(format!(
                "signed at {}; its age is not judged without --now",
                table::seconds(signed_at)
            )),
        ),
        Some(then) => {
            let fact = age(signed_at, then, if now.is_some() { "--now" } else { "it was received" });
            let judged = check_age(signed_at_s, then);
            checks.add(
                Check::Age,
                judged.map(|()| ((), fact.clone())).map_err(|refusal| {
                    format!("{refusal}: {fact}, and five minutes are allowed; each attempt is signed anew")
                }),
            );
        }
    }
    if let (Some(verifier), Some(body)) = (verifier, body) {
        // At its own time: its age is a check of its own.
        let webhook = verifier.verify(&delivery.headers, body.to_vec(), signed_at);
        let proven = webhook.map_err(|unverified| signature_problem(unverified.refusal)).map(|webhook| {
            let secret = match webhook.secret() {
                SecretSlot::Current => "made with the current secret",
                SecretSlot::Previous => "made with a previous secret",
            };
            let rotated = if webhook.has_unknown_signature() {
                "; the newest signature is of another secret: LearnInk has rotated it, so store the new one"
            } else {
                ""
            };
            ((), format!("{secret}{rotated}"))
        });
        checks.add(Check::Signature, proven);
    }
    checks.complete()
}

/// The checks up to now.
#[derive(Default)]
struct Checks(Vec<(Check, Judgement)>);

impl Checks {
    /// The value of a check that succeeded.
    fn add<T>(&mut self, check: Check, result: Result<(T, String), String>) -> Option<T> {
        let (value, judgement) = match result {
            Ok((value, fact)) => (Some(value), Judgement::Ok(fact)),
            Err(problem) => (None, Judgement::Failed(problem)),
        };
        self.judge(check, judgement);
        value
    }

    fn judge(&mut self, check: Check, judgement: Judgement) {
        self.0.push((check, judgement));
    }

    /// With those that were not reached.
    fn complete(mut self) -> Vec<(Check, Judgement)> {
        for check in [Check::Id, Check::Timestamp, Check::Age, Check::Signature] {
            if self.0.iter().all(|(made, _)| *made != check) {
                self.0.push((check, Judgement::NotReached));
            }
        }
        self.0
    }
}

/// The receiver's verifier.
fn receivers(sources: &[SecretSource]) -> Result<Verifier, SecretError> {
    let texts =
        sources.iter().filter(|source| source.role == Role::Receiver).map(|source| source.text.as_str());
    Verifier::new(&texts.collect::<Vec<_>>().join(" "))
}

fn usable(
    verifier: Result<Verifier, SecretError>,
    sources: &[SecretSource],
) -> Result<(Verifier, String), String> {
    let places = sources.iter().filter(|source| source.role == Role::Receiver);
    let places: Vec<_> = places
        .map(|source| match listed_secrets(&source.text).count() {
            1 => format!("1 from {}", source.label),
            count => format!("{count} from {}", source.label),
        })
        .collect();
    match verifier {
        Ok(verifier) => Ok((verifier, format!("usable: {}", places.join(", ")))),
        Err(error) => Err(format!("{error} ({})", places.join(", "))),
    }
}

fn size(delivery: &Delivery) -> Result<(&[u8], String), String> {
    match &delivery.body {
        None => Err(format!("{}; take the event as Lambda received it", Refusal::BodyNotBase64)),
        Some(body) if body.len() > LARGEST_BODY_BYTES => Err(format!(
            "the body has {} bytes, and a request has {LARGEST_BODY_BYTES} at most; give one delivery alone",
            body.len()
        )),
        Some(body) if body.len() == 1 => Ok((body, "1 byte".to_owned())),
        Some(body) => Ok((body, format!("{} bytes", body.len()))),
    }
}

fn headers(headers: &HeaderMap) -> Result<([&str; 3], String), String> {
    let names = signature_header_names(headers);
    let count = |name: &str| headers.get_all(name).iter().count();
    let listed = |is_named: &dyn Fn(usize) -> bool| {
        names.into_iter().filter(|name| is_named(count(name))).collect::<Vec<_>>().join(", ")
    };
    signed_headers(headers).map(|values| (values, names.join(", "))).map_err(|refusal| {
        let (missing, repeated) = (listed(&|count| count == 0), listed(&|count| count > 1));
        let is_mixed = names == SVIX_HEADERS && WEBHOOK_HEADERS.iter().any(|name| count(name) > 0);
        match refusal {
            Refusal::MissingHeader if is_mixed => {
                format!("{refusal}: {missing}; svix-* and webhook-* cannot be mixed, so give the three of one kind")
            }
            Refusal::MissingHeader => {
                format!("{refusal}: {missing}; give all three as they were sent, or find the proxy that removes it")
            }
            _ if !repeated.is_empty() => {
                format!("{refusal}: {repeated} occurs more than once; send it once, or find the proxy that adds it")
            }
            _ => format!("{refusal}; take the headers as they were sent"),
        }
    })
}

fn signed_at(timestamp: &str) -> Result<((i64, Timestamp), String), String> {
    let problem = |refusal| format!("{refusal}; it is Unix seconds, ten digits, as they were sent");
    let seconds = signed_at_s(timestamp).map_err(problem)?;
    // A time that is later than any clock says.
    let time = Timestamp::from_second(seconds).map_err(|_| problem(Refusal::TimestampInFuture))?;
    Ok(((seconds, time), "Unix seconds".to_owned()))
}

/// How far apart a time and the signed one are.
fn age(signed_at: Timestamp, then: Timestamp, what: &str) -> String {
    let age = then.duration_since(signed_at);
    let (distance, side) = if age < SignedDuration::ZERO { (-age, "after") } else { (age, "before") };
    let distance = match distance.as_hours() {
        hours @ 48.. => format!("{} days", hours / 24),
        _ => format!("{:#}", SignedDuration::from_secs(distance.as_secs())),
    };
    format!("signed at {}, {distance} {side} {what}", table::seconds(signed_at))
}

fn signature_problem(refusal: Refusal) -> String {
    let remedy = match refusal {
        Refusal::TooManySignatures => "; a rotation needs two",
        Refusal::UnsupportedVersion => "; it starts with `v1,`",
        Refusal::MalformedHeader => ": svix-signature; take it as it was sent",
        Refusal::BodyNotUtf8 => "; Svix signs text alone",
        Refusal::MissingHeader
        | Refusal::UnusableId
        | Refusal::TimestampTooOld
        | Refusal::TimestampInFuture
        | Refusal::BodyNotBase64
        | Refusal::NoMatchingSignature => "",
    };
    format!("{refusal}{remedy}")
}

/// What may have been signed, and with what.
struct Search<'d> {
    body: &'d [u8],
    ids_and_timestamps: Vec<(String, String, Vec<Mistake>)>,
    tags: Vec<(Vec<u8>, Option<Mistake>)>,
    keys: Vec<(hmac::Key, SecretName, Vec<Mistake>)>,
}

/// A combination for which the signature is valid.
struct Found {
    mistakes: Vec<Mistake>,
    secret: SecretName,
}

impl<'d> Search<'d> {
    /// `None` if a part is missing.
    fn new(delivery: &'d Delivery, sources: &[SecretSource]) -> Option<Self> {
        let body = delivery.body.as_deref().filter(|body| body.len() <= LARGEST_BODY_BYTES)?;
        // Also those that the receiver refuses because they are mixed, or occur twice.
        let values = |index: usize| {
            let names = [SVIX_HEADERS.get(index), WEBHOOK_HEADERS.get(index)].into_iter().flatten();
            let values = names.flat_map(|name| delivery.headers.get_all(*name));
            values
                .filter_map(|value| value.to_str().ok())
                .filter(|value| !value.is_empty())
                .collect::<Vec<_>>()
        };
        let (ids, timestamps, signatures) = (values(0), values(1), values(2));
        let (tags, ids_and_timestamps) = (tags(&signatures), ids_and_timestamps(&ids, &timestamps));
        let keys = sources.iter().flat_map(|source| {
            let of = listed_secrets(&source.text).count();
            let other = (source.role == Role::Other).then_some(Mistake::OtherSecret);
            keys::of_source(&source.text).into_iter().map(move |key| {
                let name = SecretName { label: source.label.clone(), position: key.position + 1, of };
                let mistakes = other.into_iter().chain(key.mistakes).collect();
                (hmac::Key::new(hmac::HMAC_SHA256, &key.bytes), name, mistakes)
            })
        });
        let search = Self { body, ids_and_timestamps, tags, keys: keys.collect() };
        let is_complete =
            !search.ids_and_timestamps.is_empty() && !signatures.is_empty() && !search.keys.is_empty();
        is_complete.then_some(search)
    }

    /// Tries every combination, those with the fewest mistakes first. Returns how many as well.
    fn run(&self, most: usize) -> (Option<Found>, usize) {
        let mut combinations = 0;
        // The mistakes with which a body came first, by its hash: it is tried with these alone.
        let mut known: HashMap<Vec<u8>, Vec<Mistake>> = HashMap::new();
        for total in 0..=most {
            for count in 0..=total {
                let found = bodies::visit(self.body, count, &mut |body, mistakes| {
                    let hash = digest::digest(&digest::SHA256, body).as_ref().to_vec();
                    if known.entry(hash).or_insert_with(|| mistakes.to_vec()) != mistakes {
                        return ControlFlow::Continue(());
                    }
                    self.try_body(body, total - count, &mut combinations).map_break(|found| Found {
                        mistakes: [found.mistakes.as_slice(), mistakes].concat(),
                        secret: found.secret,
                    })
                });
                if let ControlFlow::Break(found) = found {
                    return (Some(found), combinations);
                }
            }
        }
        (None, combinations)
    }

    /// Tries a body with all keys and headers that have exactly `rest` mistakes together.
    fn try_body(&self, body: &[u8], rest: usize, combinations: &mut usize) -> ControlFlow<Found> {
        for (key, secret, key_mistakes) in &self.keys {
            let Some(rest) = rest.checked_sub(key_mistakes.len()) else { continue };
            for (id, timestamp, header_mistakes) in &self.ids_and_timestamps {
                let Some(rest) = rest.checked_sub(header_mistakes.len()) else { continue };
                // One mistake may have changed the headers and the signature.
                let tags = self.tags.iter().map(|(tag, mistake)| {
                    (tag, mistake.filter(|mistake| !header_mistakes.contains(mistake)))
                });
                let mut tags = tags.filter(|(_, mistake)| usize::from(mistake.is_some()) == rest).peekable();
                if tags.peek().is_none() {
                    continue;
                }
                *combinations += 1;
                let mut signed = hmac::Context::with_key(key);
                for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                    signed.update(part);
                }
                let signed = signed.sign();
                if let Some((_, mistake)) = tags.find(|(tag, _)| tag.as_slice() == signed.as_ref()) {
                    let mistakes =
                        key_mistakes.iter().chain(header_mistakes).copied().chain(mistake).collect();
                    return ControlFlow::Break(Found { mistakes, secret: secret.clone() });
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// The bytes of the signatures: those of version 1 as they should be, and what others may stand for.
fn tags(signatures: &[&str]) -> Vec<(Vec<u8>, Option<Mistake>)> {
    /// HMAC-SHA256.
    const TAG_BYTES: usize = 32;
    /// The receiver takes fewer.
    const MOST: usize = 4 * learnink_receiver::verify::MOST_SIGNATURES;

    let listed = signatures.iter().flat_map(|signatures| signatures.split_ascii_whitespace()).take(MOST);
    let tag = |signature: &str| {
        if let Some(tag) = signature.strip_prefix("v1,").and_then(|tag| BASE64.decode(tag).ok()) {
            return vec![(tag, None)];
        }
        // A gateway joins headers that occur twice with a comma.
        if signature.starts_with("v1,") && signature.contains(",v1,") {
            let joined = signature.split(',').filter_map(|part| BASE64.decode(part).ok());
            return joined.map(|tag| (tag, Some(Mistake::HeaderJoined))).collect();
        }
        let parts = signature.split([',', '=']);
        let decoded = parts.flat_map(|part| [keys::lenient(part), from_hex(part)]).flatten();
        decoded.map(|tag| (tag, Some(Mistake::SignatureEncoding))).collect()
    };
    listed.flat_map(tag).filter(|(tag, _)| tag.len() == TAG_BYTES).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The ids and timestamps that may have been signed.
fn ids_and_timestamps(ids: &[&str], timestamps: &[&str]) -> Vec<(String, String, Vec<Mistake>)> {
    let pairs = [(ids.first(), timestamps.first()), (ids.last(), timestamps.last())];
    let mut all: Vec<(String, String, Vec<Mistake>)> = Vec::new();
    for (id, timestamp) in pairs.into_iter().filter_map(|(id, timestamp)| Some((*id?, *timestamp?))) {
        let swapped = [(id, timestamp, None), (timestamp, id, Some(Mistake::IdAndTimestampSwapped))];
        for (id, timestamp, swapped) in swapped {
            let firsts = (first_of(id), first_of(timestamp), Some(Mistake::HeaderJoined));
            for (id, timestamp, joined) in [(id, timestamp, None), firsts] {
                for (timestamp, changed) in signed_timestamps(id, timestamp) {
                    let mistakes: Vec<_> = [swapped, joined, changed].into_iter().flatten().collect();
                    let is_new = all.iter().all(|(i, t, _)| (i.as_str(), t) != (id, &timestamp));
                    if is_new && mistakes.len() <= MOST_MISTAKES {
                        all.push((id.to_owned(), timestamp, mistakes));
                    }
                }
            }
        }
    }
    all
}

/// The first of values that a gateway joined.
fn first_of(value: &str) -> &str {
    value.split_once(',').map_or(value, |(first, _)| first.trim())
}

/// The timestamps that may have been signed.
fn signed_timestamps(id: &str, timestamp: &str) -> Vec<(String, Option<Mistake>)> {
    let is_digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let mut all = vec![(timestamp.to_owned(), None)];
    let mut add = |timestamp: &str, mistake| all.push((timestamp.to_owned(), Some(mistake)));
    if let Some((seconds, _)) =
        timestamp.split_at_checked(10).filter(|(_, rest)| is_digits && rest.len() == 3)
    {
        add(seconds, Mistake::TimestampInMilliseconds);
    }
    if is_digits && timestamp.len() == 10 {
        add(&format!("{timestamp}000"), Mistake::MillisecondsSigned);
    }
    if let Ok(date) = timestamp.parse::<Timestamp>() {
        add(&date.as_second().to_string(), Mistake::TimestampAsDate);
    }
    if id == GUIDE_ID {
        add(GUIDE_SIGNED_AT_S, Mistake::TimestampOfGuide);
    }
    all
}

/// What to look at if no known mistake was found.
fn advice(delivery: &Delivery, sources: &[SecretSource]) -> Vec<String> {
    let mut advice = Vec::new();
    let is_guides = SVIX_HEADERS
        .iter()
        .chain(&WEBHOOK_HEADERS)
        .flat_map(|name| delivery.headers.get_all(*name))
        .any(|value| value == GUIDE_ID);
    if is_guides {
        advice.push(
            "The id is the one of the example in LearnInk's guide, which your secret did not sign. Take the headers of \
             a real delivery."
                .to_owned(),
        );
    }
    let body = delivery.body.as_deref().unwrap_or_default();
    if let Some(length) = delivery.content_length.filter(|length| *length != body.len()) {
        advice.push(format!(
            "content-length says {length} bytes, and the body has {}: it was changed or cut after it was sent.",
            body.len()
        ));
    }
    advice.push(
        "Take the id, the timestamp, the signature and the body of the same attempt: LearnInk signs each attempt anew."
            .to_owned(),
    );
    let json = str::from_utf8(body).ok().and_then(Json::parse);
    if let Some(json) = &json {
        if matches!(json.spacing(), Some(Spacing::TwoSpaces | Spacing::FourSpaces | Spacing::Tabs)) {
            advice.push(
                "The body is indented, as dashboards and editors show it. Take the bytes as they arrived."
                    .to_owned(),
            );
        } else if json.spacing().is_none() {
            advice.push(
                "The white space of the body is irregular: it may have been edited. Take the bytes as they arrived."
                    .to_owned(),
            );
        }
        if json.is_in(Order::Sorted) && !json.is_in(Order::OfGuide) {
            advice.push(
                "The members of the body are in the order of their names. If a program sorted them, their own order is \
                 lost: take the bytes as they arrived."
                    .to_owned(),
            );
        }
    }
    advice.push(
        "Compare the secret with the one that LearnInk shows for this endpoint: staging and production have one each, \
         and so has every endpoint. --other-secret-file tries more secrets."
            .to_owned(),
    );
    advice.push("Look for a proxy or firewall in front of the receiver that changes bodies.".to_owned());
    if sources.iter().any(|source| listed_secrets(&source.text).count() > MOST_SECRETS) {
        advice.push(format!("Of each file, only the first {MOST_SECRETS} secrets were tried."));
    }
    advice
}

#[cfg(test)]
mod tests;
