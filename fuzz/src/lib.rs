//! Shared code of the targets: the rules, written a second time, so that a mistake would have to be made twice.
//!
//! Nothing here calls the code under test.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use sha2::Sha256;

/// The signature of a delivery, as in the header: `v1,` and the base64 of an HMAC-SHA256.
///
/// Source: Standard Webhooks specification, "Signature scheme".
pub fn signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let key = BASE64.decode(secret.trim_start_matches("whsec_")).expect("our secrets are base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length will do");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

/// Whether a message may have this id.
pub fn is_usable_id(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.chars().all(|c| ('!'..='~').contains(&c) && c != '.')
}

/// Whether SQS accepts this text. Source: Amazon SQS API reference, `SendMessage`.
pub fn is_text_for_sqs(text: &str) -> bool {
    let is_taken = |c| match c {
        '\t' | '\n' | '\r' => true,
        '\u{FFFE}' | '\u{FFFF}' => false,
        _ => c >= ' ',
    };
    !text.is_empty() && text.chars().all(is_taken)
}

/// Bytes that are printed as text if they are text: a crash is reported with its input.
#[derive(Clone, Copy, Arbitrary)]
pub struct Bytes<'a>(pub &'a [u8]);

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Makes a long body from a short one. A fuzzer's inputs are far below the sizes that matter: 64 KiB, 1 MiB, 6
/// MiB.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// As it is.
    Unchanged,
    /// Repeated, up to this many bytes: gzip makes it small.
    Repeated(usize),
    /// Followed by this many bytes of text that gzip cannot compress.
    WithNoise(usize),
}

impl<'a> Arbitrary<'a> for Length {
    // By hand, because the longest bodies take a thousand times as long, and have to be rare.
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let bytes = |number: u16| {
            // Up to 100 kB, or 6.5 MB.
            let unit = if number / 1024 == 37 { 6400 } else { 100 };
            usize::from(number % 1024) * unit
        };
        Ok(match u8::arbitrary(u)? {
            b'R' => Self::Repeated(bytes(u16::arbitrary(u)?)),
            b'N' => Self::WithNoise(bytes(u16::arbitrary(u)?)),
            _ => Self::Unchanged,
        })
    }
}

impl Length {
    /// The body with that length.
    pub fn of(self, body: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Unchanged => Cow::Borrowed(body),
            Self::Repeated(bytes) => body.iter().copied().cycle().take(bytes).collect(),
            Self::WithNoise(bytes) => {
                let mut state = 1_u64;
                let noise = std::iter::repeat_with(|| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    b'!' + u8::try_from((state >> 33) % 90).expect("it is below 90")
                });
                body.iter().copied().chain(noise.take(bytes)).collect()
            }
        }
    }
}
