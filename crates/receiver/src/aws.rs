//! The receiver's calls to AWS: how long it waits, and how often it tries.

use std::time::Duration;

use learnink_aws::CallLimits;

/// One attempt of a call may take this long.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// A call may not take longer, with all its attempts and the pause between them. Svix waits 15 s for an answer,
/// and Lambda 10 s for the function, so a 503 must come well before.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How often one call is tried; the sender's own retries do the rest.
const ATTEMPTS: u32 = 2;

/// The longest pause between two attempts. Most second attempts follow a connection that AWS closed while the
/// environment was frozen, and then waiting does not help.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The limits of a call that a webhook waits for.
pub(crate) const LIMITS: CallLimits = CallLimits {
    attempts: ATTEMPTS,
    attempt: ATTEMPT_TIMEOUT,
    call: OPERATION_TIMEOUT,
    pause: LONGEST_PAUSE,
};
