//! A list: each item is done once, under a key of its own, and recorded while the rest runs.

use learnink_aws::{Env, HttpsUrl};
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::{Notification, NotificationsSent};
use learnink_webhook::{Event, HandlerError, HandlerResult, IdempotencyKey, OrPermanent, Permits, Router};
use serde_json::json;

/// The inbox of your own app.
#[derive(Debug, Clone)]
struct Inbox {
    url: HttpsUrl,
    http: reqwest::Client,
    /// Of all messages that an environment works on, this many items at a time.
    permits: Permits,
}

/// The handler; none if `INBOX_URL` is not set.
///
/// # Errors
///
/// [`ConfigError`] if it is not an address.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(url) = env.optional("INBOX_URL")? else { return Ok(Router::off("inbox")) };
    let http = env.http_client(&url)?;
    let inbox = Inbox { url, http, permits: Permits::new(8) };
    Ok(Router::new().on("inbox", fill).with_state(inbox))
}

async fn fill(event: Event<NotificationsSent>, inbox: Inbox) -> HandlerResult {
    let notifications = &event.data.notifications;
    // Nothing besides the list: a long list is cut into parts, and everything else would be done for each part.
    event
        .for_each_item(notifications, &inbox.permits, |one, key| async { inbox.put(one.read()?, key).await })
        .await
}

impl Inbox {
    async fn put(&self, notification: &Notification, key: IdempotencyKey) -> HandlerResult {
        // Such an item is refused by itself. The others are done.
        let learner =
            notification.custom_id.read("custom_id")?.or_permanent("the learner has no id of ours")?;
        let text = notification.body.expose();
        let body = json!({ "learner": learner, "text": text, "path": notification.path }).to_string();
        let request = self.http.post(self.url.url()).header("idempotency-key", key.as_str());
        let response = request.header("content-type", "application/json").body(body).send().await?;
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(HandlerError::retryable(format!("the answer was {status}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::testing::{TestConsumer, with};
    use serde_json::Value;

    use super::*;
    use crate::endpoint;

    const SENT: &str = include_str!("../../events/notifications.sent.json");

    #[tokio::test]
    async fn each_item_is_put_once_and_one_without_an_id_of_ours_does_not_stop_the_others() {
        let sample: Value = serde_json::from_str(SENT).unwrap();
        let one = sample["data"]["notifications"][0].clone();
        let mut nobody = one.clone();
        nobody["custom_id"] = Value::Null;
        let three = with(SENT, "/data/notifications", json!([one, nobody, one]));
        let (url, requests) = endpoint::start(200).await;
        let mut consumer = TestConsumer::new(router(&Env::of([("INBOX_URL", &*url)])).unwrap());
        consumer.deliver(three).await.assert_dead_lettered("the learner has no id of ours");
        consumer.redeliver().await.assert_dead_lettered("the learner has no id of ours");
        let mut keys: Vec<_> = requests.lock().unwrap().iter().map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["msg_1/inbox/0", "msg_1/inbox/2"]);
    }
}
