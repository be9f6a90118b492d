//! `LEARNINK_PUSH=endpoint`: the customer's own HTTPS endpoint, called as a webhook.

use jiff::Timestamp;
use learnink_aws::HttpsUrl;
use learnink_webhook::event::Notification;
use learnink_webhook::{HandlerError, IdempotencyKey};
use serde::Serialize;

use crate::endpoint::SigningKeys;
use crate::http::Request;

use super::{custom_id, learner_id, user_id};

/// The body, whose shape the documentation of [`push`](super) promises.
#[derive(Serialize)]
struct Posted<'a> {
    title: &'a str,
    body: &'a str,
    path: &'a str,
    user_id: Option<&'a str>,
    custom_id: Option<&'a str>,
}

/// The request for one notification, signed as of `now`; `None` if the learner has no id at all.
pub(super) fn request(
    address: &HttpsUrl,
    keys: &SigningKeys,
    one: &Notification,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<Request>, HandlerError> {
    let (user_id, custom_id) = (user_id(one)?, custom_id(one)?);
    if learner_id(one)?.is_none() {
        return Ok(None);
    }
    let body = serde_json::to_vec(&Posted {
        title: one.title.expose(),
        body: one.body.expose(),
        path: &one.path,
        user_id,
        custom_id,
    })?;
    Ok(Some(keys.signed(address.url(), key, now, body)?))
}
