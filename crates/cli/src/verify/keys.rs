//! The keys that a secret may have been used as.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use learnink_webhook::config::{is_invisible, listed_secrets};

use super::mistake::Mistake;

/// A key, and how it differs from the one that the receiver makes of the secret.
pub(super) struct Key {
    pub(super) bytes: Vec<u8>,
    pub(super) mistakes: Vec<Mistake>,
    /// The secret's position in its source, from 0.
    pub(super) position: usize,
}

/// Takes what strict decoders refuse: missing padding, and bits behind the last byte.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const LENIENT_STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// More secrets than this in one source are left out: the search has an end.
pub(super) const MOST_SECRETS: usize = 16;

const PREFIX: &str = "whsec_";

/// The keys of a source with one secret or several, each once: those with the fewest mistakes first.
pub(super) fn of_source(text: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let mut add = |bytes: Vec<u8>, mistakes: Vec<Mistake>, position: usize| {
        if !bytes.is_empty() && mistakes.len() <= 2 && keys.iter().all(|key| key.bytes != bytes) {
            keys.push(Key { bytes, mistakes, position });
        }
    };
    let mut readings = Vec::new();
    for (position, secret) in listed_secrets(text).enumerate().take(MOST_SECRETS) {
        readings.extend(texts(secret).into_iter().map(|(text, mistakes)| (text, mistakes, position)));
    }
    for text in [extracted(text), joined(text)].into_iter().flatten() {
        readings.push((text, vec![Mistake::SecretSurroundings], 0));
    }
    let decodings: Vec<_> = readings
        .iter()
        .flat_map(|(text, mistakes, position)| {
            decodings(text).into_iter().map(move |(bytes, mistake)| {
                (bytes, mistakes.iter().copied().chain(mistake).collect::<Vec<_>>(), *position)
            })
        })
        .collect();
    for count in 0..=2 {
        for (bytes, mistakes, position) in decodings.iter().filter(|(_, mistakes, _)| mistakes.len() == count)
        {
            add(bytes.clone(), mistakes.clone(), *position);
        }
    }
    keys
}

/// Decodes base64 of either alphabet, with or without padding.
pub(super) fn lenient(text: &str) -> Option<Vec<u8>> {
    LENIENT_STANDARD.decode(text.replace('-', "+").replace('_', "/")).ok()
}

/// The secret that a text may stand for.
fn texts(secret: &str) -> Vec<(String, Vec<Mistake>)> {
    let mut texts = vec![(secret.to_owned(), vec![])];
    if let Some(rest) = secret.strip_prefix("v1,") {
        texts.push((rest.to_owned(), vec![Mistake::SecretVersion]));
    }
    let decoded = LENIENT_STANDARD.decode(secret).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(decoded) = decoded.filter(|decoded| decoded.starts_with(PREFIX)) {
        texts.push((decoded.trim().to_owned(), vec![Mistake::SecretEncodedTwice]));
    }
    texts
}

/// The secret that begins somewhere within a text: in JSON, or behind the name of a variable.
fn extracted(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(PREFIX)?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    Some(format!("{PREFIX}{}", rest.get(..end)?))
}

/// The text without blanks, quotes and invisible characters: a secret that was copied on two lines.
fn joined(text: &str) -> Option<String> {
    // Several secrets are not one.
    let is_one = text.matches(PREFIX).count() <= 1;
    let is_left_out =
        |c: char| c.is_whitespace() || is_invisible(c) || "\"'`\u{201c}\u{201d}\u{2018}\u{2019}".contains(c);
    is_one.then(|| text.chars().filter(|c| !is_left_out(*c)).collect())
}

/// The keys that a secret may be used as: first as the receiver uses it.
fn decodings(secret: &str) -> Vec<(Vec<u8>, Option<Mistake>)> {
    let encoded = secret.strip_prefix(PREFIX).unwrap_or(secret);
    let mut keys = Vec::new();
    let mut add = |bytes: Option<Vec<u8>>, mistake| keys.extend(bytes.map(|bytes| (bytes, mistake)));
    add(STANDARD.decode(encoded).ok(), None);
    add(lenient(encoded), Some(Mistake::SecretAlphabet));
    for text in [secret, encoded] {
        add(Some(text.into()), Some(Mistake::SecretAsText));
        add(Some(format!("{text}\n").into()), Some(Mistake::SecretAsTextWithLineBreak));
        add(Some(format!("\"{text}\"").into()), Some(Mistake::SecretAsTextInQuotes));
    }
    add(lenient(secret), Some(Mistake::SecretPrefixDecoded));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn key() -> Vec<u8> {
        STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
    }

    #[test]
    fn the_key_that_the_receiver_uses_is_found_in_a_text_that_is_not_only_the_secret() {
        let twice = STANDARD.encode(format!("{SECRET}\n"));
        for (text, expected) in [
            (SECRET.to_owned(), vec![]),
            (format!("\u{feff}\"{SECRET}\"\r\n"), vec![]),
            (format!("v1,{SECRET}"), vec![Mistake::SecretVersion]),
            (format!("SECRET={SECRET}"), vec![Mistake::SecretSurroundings]),
            (format!("{{\"secret\": \"{SECRET}\"}}"), vec![Mistake::SecretSurroundings]),
            (SECRET.replace("KY", "K\n Y"), vec![Mistake::SecretSurroundings]),
            (twice, vec![Mistake::SecretEncodedTwice]),
        ] {
            let keys = of_source(&text);
            let found = keys.iter().find(|candidate| candidate.bytes == key());
            assert_eq!(found.unwrap().mistakes, expected, "{text}");
        }
    }

    #[test]
    fn a_source_may_have_several_secrets() {
        let keys = of_source(&format!("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n{SECRET}\n"));
        let found = keys.iter().find(|candidate| candidate.bytes == key()).unwrap();
        assert_eq!((found.position, found.mistakes.len()), (1, 0));
    }

    #[test]
    fn no_key_is_tried_twice() {
        let keys = of_source(SECRET);
        for (index, key) in keys.iter().enumerate() {
            assert!(keys.iter().skip(index + 1).all(|other| other.bytes != key.bytes));
        }
        assert!(keys.len() < 20, "{}", keys.len());
    }
}
