//! Webhooks as LearnInk signs them.

use std::time::Duration;

use svix::webhooks::Webhook;

/// A public test secret, never for use.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Another one.
pub const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The headers that LearnInk would send with `body`.
pub fn headers(secret: &str, id: &str, timestamp_s: i64, body: &[u8]) -> [(&'static str, String); 3] {
    let webhook = Webhook::new(secret).expect("the secret is usable");
    let signature = webhook.sign(id, timestamp_s, body).expect("the body is UTF-8");
    [("svix-id", id.to_owned()), ("svix-timestamp", timestamp_s.to_string()), ("svix-signature", signature)]
}

/// Seconds since the epoch.
pub fn now_s() -> i64 {
    now().as_secs().cast_signed()
}

/// The time since the epoch.
#[expect(clippy::disallowed_methods, reason = "programs under test read the real clock")]
pub(crate) fn now() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("the clock is past 1970")
}
