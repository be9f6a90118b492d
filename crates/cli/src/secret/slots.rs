//! What is stored, as facts about each secret: which slot it is in, and whether it can be used. Never the secret.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use learnink_connectors::push::check_secret;
use learnink_receiver::Verifier;
use learnink_simulator::Fingerprint;
use learnink_webhook::config::{listed_secrets, unquoted};
use serde::Serialize;

use super::store::{Stored, Version};

/// What every signing secret of LearnInk's starts with.
const PREFIX: &str = "whsec_";

/// The length of the random secret that `template.yaml` generates: letters and digits.
const GENERATED_CHARACTERS: usize = 32;

/// A secret of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With which LearnInk signs.
    Signing,
    /// Of the push sender: the value of the parameter `Push`.
    Push {
        /// `endpoint`, `onesignal` or `fcm`.
        sender: String,
    },
    /// With which forwarded events are signed.
    Forward,
}

impl Kind {
    /// The name in commands.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::Push { .. } => "push",
            Self::Forward => "forward",
        }
    }

    /// Whether the value may hold several secrets.
    fn is_list(&self) -> bool {
        match self {
            Self::Signing | Self::Forward => true,
            Self::Push { sender } => sender == "endpoint",
        }
    }

    /// Checks a value as its reader does.
    fn check(&self, value: &str) -> anyhow::Result<()> {
        match self {
            Self::Signing => Ok(Verifier::new(value).map(drop)?),
            Self::Push { sender } => Ok(check_secret(sender, value)?),
            Self::Forward => Ok(check_secret("endpoint", value)?),
        }
    }

    /// The secrets in a value that can be used, as bytes.
    fn keys(&self, value: &str) -> anyhow::Result<Vec<Key>> {
        self.check(value)?;
        let key = |text: &str| {
            let bytes = if self.is_list() {
                BASE64.decode(text.strip_prefix(PREFIX).unwrap_or(text)).context("it is not base64")?
            } else {
                text.into()
            };
            Ok(Key { bytes, is_generated: is_generated(text) })
        };
        if self.is_list() {
            listed_secrets(value).map(key).collect()
        } else {
            Ok(vec![key(unquoted(value))?])
        }
    }
}

/// One secret of a value.
#[derive(PartialEq, Eq)]
struct Key {
    bytes: Vec<u8>,
    /// Whether it looks like the random one of the template.
    is_generated: bool,
}

/// Whether a text looks like a secret that the template generated. LearnInk's start with `whsec_`.
fn is_generated(text: &str) -> bool {
    text.len() == GENERATED_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What a secret is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is the current one.
    InUse,
    /// It is accepted, or signs, beside the current one.
    AlsoUsed,
    /// The template generated it: nobody has stored LearnInk's secret yet.
    Generated,
    /// The slot has no value.
    Missing,
    /// The value cannot be used.
    Unusable,
}

/// The place of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Current,
    Previous,
}

impl Place {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

/// One secret, or the value that should have one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Slot {
    /// `signing`, `push` or `forward`.
    pub(crate) secret: &'static str,
    pub(crate) slot: Place,
    pub(crate) state: State,
    /// None if it cannot be used.
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) stored_at: Option<Timestamp>,
    /// Why it cannot be used.
    pub(crate) problem: Option<String>,
}

/// The slots of a secret, in the order in which they are tried. One that is stored twice is listed once.
pub(crate) fn slots(kind: &Kind, stored: &Stored) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut seen: Vec<Key> = Vec::new();
    // Only the receiver reads the previous value.
    let previous = stored.previous.as_ref().filter(|_| *kind == Kind::Signing);
    for (place, version) in [(Place::Current, stored.current.as_ref()), (Place::Previous, previous)] {
        let slot = |slot, state, stored_at| Slot {
            secret: kind.name(),
            slot,
            state,
            fingerprint: None,
            stored_at,
            problem: None,
        };
        // A secret without a value is empty on some emulators.
        let version =
            version.filter(|version| version.value.as_ref().is_none_or(|value| !value.trim().is_empty()));
        let Some(version) = version else {
            if place == Place::Current {
                slots.push(slot(place, State::Missing, None));
            }
            continue;
        };
        match keys(kind, version) {
            Err(problem) => {
                let problem = Some(format!("{problem:#}"));
                slots.push(Slot { problem, ..slot(place, State::Unusable, version.stored_at) });
            }
            Ok(keys) => {
                for (position, key) in keys.into_iter().enumerate() {
                    let place = if position == 0 { place } else { Place::Previous };
                    if seen.iter().any(|seen| seen.bytes == key.bytes) {
                        continue;
                    }
                    let state = match place {
                        _ if key.is_generated && *kind == Kind::Signing => State::Generated,
                        Place::Current => State::InUse,
                        Place::Previous => State::AlsoUsed,
                    };
                    let fingerprint = Some(Fingerprint::of(&key.bytes));
                    slots.push(Slot { fingerprint, ..slot(place, state, version.stored_at) });
                    seen.push(key);
                }
            }
        }
    }
    slots
}

fn keys(kind: &Kind, version: &Version) -> anyhow::Result<Vec<Key>> {
    let value = version.value.as_deref().context("the secret is binary; store it as plain text")?;
    kind.keys(value)
}

/// A secret that an operator gave, checked.
pub(crate) struct Given {
    /// As it is stored.
    pub(crate) text: String,
    pub(crate) fingerprint: Fingerprint,
    bytes: Vec<u8>,
}

/// A secret that cannot be stored: what is wrong with it, and what to do. It never repeats the secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotStorable {
    /// There is nothing but white space and quotes.
    #[error("there is no secret in it")]
    Empty,
    /// Several, or one with a blank within.
    #[error(
        "it has a blank or a line break in it; give one secret alone, in one piece, as LearnInk shows it"
    )]
    NotOne,
    /// Something that could be a key, but is not shown like this.
    #[error(
        "it does not start with `whsec_`; copy the whole signing secret from the endpoint's page in LearnInk"
    )]
    NoPrefix,
    /// Its reader would refuse it.
    #[error("{0}")]
    Unusable(String),
}

impl Given {
    /// Checks a secret as its reader does. White space, quotes and invisible characters around it are left out.
    pub(crate) fn parse(kind: &Kind, text: &str) -> Result<Self, NotStorable> {
        let unusable = |problem: anyhow::Error| NotStorable::Unusable(format!("{problem:#}"));
        let text = if kind.is_list() {
            listed_secrets(text).collect::<Vec<_>>().join(" ")
        } else {
            unquoted(text).to_owned()
        };
        if text.is_empty() {
            return Err(NotStorable::Empty);
        }
        // The parser has a better word for JSON.
        if *kind == Kind::Signing && text.contains(' ') && !text.starts_with('{') {
            return Err(NotStorable::NotOne);
        }
        let key = kind.keys(&text).map_err(unusable)?.into_iter().next().ok_or(NotStorable::Empty)?;
        // A signature is base64 of the right length too.
        if kind.is_list() && !text.split(' ').all(|secret| secret.starts_with(PREFIX)) {
            return Err(NotStorable::NoPrefix);
        }
        Ok(Self { fingerprint: Fingerprint::of(&key.bytes), text, bytes: key.bytes })
    }

    /// Where it is stored already.
    pub(crate) fn found_in(&self, kind: &Kind, stored: &Stored) -> Option<Place> {
        let is_in = |version: &Version| -> Option<usize> {
            keys(kind, version).ok()?.iter().position(|key| key.bytes == self.bytes)
        };
        match stored.current.as_ref().and_then(is_in) {
            Some(0) => Some(Place::Current),
            Some(_) => Some(Place::Previous),
            None => stored.previous.as_ref().and_then(is_in).map(|_| Place::Previous),
        }
    }
}

/// A secret in use, to sign a probe with.
#[derive(PartialEq, Eq)]
pub(crate) struct InUse {
    /// As it is stored.
    pub(crate) text: String,
    pub(crate) fingerprint: Fingerprint,
}

/// The signing secrets that the receiver accepts: the current one, and those that are accepted beside it. Those of a
/// value that cannot be used are left out.
pub(crate) fn accepted(stored: &Stored) -> (Option<InUse>, Vec<InUse>) {
    let of = |version: Option<&Version>| -> Vec<InUse> {
        let Some(version) = version else { return Vec::new() };
        let (Ok(keys), Some(value)) = (keys(&Kind::Signing, version), &version.value) else {
            return Vec::new();
        };
        let texts = listed_secrets(value).map(str::to_owned);
        texts.zip(keys).map(|(text, key)| InUse { text, fingerprint: Fingerprint::of(&key.bytes) }).collect()
    };
    let mut current = of(stored.current.as_ref()).into_iter();
    let first = current.next();
    let mut others: Vec<InUse> = Vec::new();
    for other in current.chain(of(stored.previous.as_ref())) {
        let is_known = |known: &InUse| known.fingerprint == other.fingerprint;
        if !first.as_ref().is_some_and(is_known) && !others.iter().any(is_known) {
            others.push(other);
        }
    }
    (first, others)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const TWO: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const RANDOM: &str = "k3JdP0aZ8sQwLx5VbNtR2mYcHg7UfEiT";

    fn stored(current: &str, previous: Option<&str>) -> Stored {
        let version = |value: &str, second: i64| Version {
            id: second.to_string(),
            value: Some(value.to_owned()),
            stored_at: Timestamp::from_second(second).ok(),
        };
        Stored { current: Some(version(current, 2)), previous: previous.map(|value| version(value, 1)) }
    }

    fn states(kind: &Kind, stored: &Stored) -> Vec<(Place, State)> {
        slots(kind, stored).into_iter().map(|slot| (slot.slot, slot.state)).collect()
    }

    #[test]
    fn a_fingerprint_is_of_the_key_whatever_is_around_it_and_another_key_has_another_one() {
        let of = |value: &str| {
            let slots = slots(&Kind::Signing, &stored(value, None));
            slots.into_iter().next().unwrap().fingerprint.unwrap().to_string()
        };
        // Computed with Python's hmac and base64 too.
        assert_eq!(of(ONE), "94bbb083");
        assert_eq!(of(&format!("\u{feff}\"{}\"\n", ONE.trim_start_matches("whsec_"))), of(ONE));
        assert_ne!(of(ONE), of(TWO));
    }

    #[test]
    fn the_slots_are_those_that_the_receiver_accepts_each_once() {
        use Place::{Current, Previous};
        for (current, previous, expected) in [
            (ONE, None, vec![(Current, State::InUse)]),
            (ONE, Some(TWO), vec![(Current, State::InUse), (Previous, State::AlsoUsed)]),
            (ONE, Some(ONE), vec![(Current, State::InUse)]),
            (&*format!("{ONE} {TWO}"), Some(TWO), vec![(Current, State::InUse), (Previous, State::AlsoUsed)]),
            (RANDOM, None, vec![(Current, State::Generated)]),
            (ONE, Some(RANDOM), vec![(Current, State::InUse), (Previous, State::Generated)]),
            ("v1,x", Some(TWO), vec![(Current, State::Unusable), (Previous, State::AlsoUsed)]),
            (" ", None, vec![(Current, State::Missing)]),
        ] {
            let stored = stored(current, previous);
            assert_eq!(states(&Kind::Signing, &stored), expected, "{current} {previous:?}");
            let (first, others) = accepted(&stored);
            let usable = |place| {
                expected.iter().filter(|(slot, state)| *slot == place && *state != State::Unusable).count()
            };
            let is_missing = expected[0].1 == State::Missing;
            assert_eq!(usize::from(first.is_some()), if is_missing { 0 } else { usable(Current) });
            assert_eq!(others.len(), usable(Previous));
        }
        assert_eq!(states(&Kind::Signing, &Stored::default()), [(Current, State::Missing)]);
    }

    #[test]
    fn the_secrets_of_the_senders_have_no_previous_value() {
        for (kind, value) in [
            (Kind::Forward, RANDOM),
            (Kind::Push { sender: "endpoint".to_owned() }, ONE),
            (Kind::Push { sender: "onesignal".to_owned() }, "os_v2_app_secret"),
        ] {
            assert_eq!(states(&kind, &stored(value, Some(TWO))), [(Place::Current, State::InUse)]);
        }
        let other = Kind::Push { sender: "fcm".to_owned() };
        assert_eq!(states(&other, &stored(ONE, None)), [(Place::Current, State::Unusable)]);
    }

    #[test]
    fn what_is_around_a_secret_is_not_stored() {
        for text in [ONE.to_owned(), format!(" {ONE}\r\n"), format!("'{ONE}'"), format!("\u{feff}\"{ONE}\"")]
        {
            assert_eq!(Given::parse(&Kind::Signing, &text).ok().unwrap().text, ONE, "{text:?}");
        }
        let push = Kind::Push { sender: "onesignal".to_owned() };
        assert_eq!(Given::parse(&push, "\"os_v2_app_secret\"\n").ok().unwrap().text, "os_v2_app_secret");
    }

    #[test]
    fn what_is_not_a_secret_is_refused_with_what_to_do_and_never_repeated() {
        let refused = |text: &str| Given::parse(&Kind::Signing, text).err().unwrap().to_string();
        for (text, expected) in [
            ("", "there is no secret in it"),
            (" '' \n", "there is no secret in it"),
            (&*format!("v1,{ONE}"), "leave out `v1,`"),
            (&*format!("{ONE} {TWO}"), "it has a blank or a line break in it"),
            (&*ONE.replace("KY", "K\nY"), "it has a blank or a line break in it"),
            (&*ONE.replace("KY", "K\u{200b}Y"), "an invisible character"),
            (&*format!("{{\"secret\": \"{ONE}\"}}"), "is a JSON object"),
            (ONE.trim_start_matches("whsec_"), "it does not start with `whsec_`"),
            ("K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", "it does not start with `whsec_`"),
            ("whsec_c2hvcnQ=", "fewer than 24"),
            ("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "public key"),
            ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "private key"),
            ("correct horse", "it has a blank"),
            ("hunter2", "not base64"),
        ] {
            let said = refused(text);
            assert!(said.contains(expected), "{said}");
            let parts = text.split_whitespace().filter(|part| part.len() > 4);
            assert!(parts.into_iter().all(|part| !said.contains(part)), "{said}");
        }
    }

    proptest! {
        #[test]
        fn what_is_given_is_stored_only_if_the_receiver_takes_it(text in "(whsec_|v1,)?[ -~]{0,48}") {
            if let Ok(given) = Given::parse(&Kind::Signing, &text) {
                prop_assert!(Verifier::new(&given.text).is_ok());
                prop_assert_eq!(given.found_in(&Kind::Signing, &stored(&given.text, None)), Some(Place::Current));
            }
        }
    }

    #[test]
    fn a_given_secret_is_found_where_it_is_stored() {
        let given = Given::parse(&Kind::Signing, ONE).ok().unwrap();
        let found = |current: &str, previous| given.found_in(&Kind::Signing, &stored(current, previous));
        assert_eq!(found(ONE, Some(ONE)), Some(Place::Current));
        assert_eq!(found(&format!("{TWO} {ONE}"), None), Some(Place::Previous));
        assert_eq!(found(TWO, Some(ONE)), Some(Place::Previous));
        assert_eq!(found(TWO, None), None);
        assert_eq!(found("v1,x", None), None);
    }
}
