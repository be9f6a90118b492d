//! HMAC-SHA256 by ring, in the place of the crate of this name.
//!
//! `svix` verifies signatures with the crate `hmac-sha256`, which is portable Rust and does not use the CPU's SHA
//! instructions. ring does, and the Lambdas have it anyway, for TLS. `[patch.crates-io]` in the workspace's
//! `Cargo.toml` puts this crate in the place of the original. Without the patch, everything works as before, only
//! slower.
//!
//! It has only what `svix` calls. If a newer `svix` calls more, it does not compile, and the patch has to be removed
//! or extended.

use ring::hmac;

/// HMAC-SHA256. Source: RFC 2104; FIPS 180-4.
#[expect(clippy::upper_case_acronyms, reason = "the name that `svix` uses")]
pub struct HMAC;

impl HMAC {
    /// The authentication code of `input` under the key `k`. Both may have any length.
    pub fn mac(input: impl AsRef<[u8]>, k: impl AsRef<[u8]>) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, k.as_ref());
        let mut mac = [0; 32];
        mac.copy_from_slice(hmac::sign(&key, input.as_ref()).as_ref());
        mac
    }
}
