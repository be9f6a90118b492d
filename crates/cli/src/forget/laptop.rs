//! What only `learnink dev` has: the journal of its queues, and the history of its page.

use std::fs;
use std::path::{Path, PathBuf};

use learnink_console::history::{self, BodyChange};
use learnink_local::sqs::{JournalChange, each_in_journal, rewrite_journal};
use learnink_local::state::{self, journal_file};
use learnink_local::terminal::quoted;
use learnink_webhook::Message;
use learnink_webhook::message::{Attribute, attribute};
use serde_json::{Map, Value, json};

use super::found::{Found, Webhook};
use super::learner::{Learner, Part};

/// A request to send a message, as the journal has it.
struct Request(Map<String, Value>);

/// Its members.
const BODY: &str = "MessageBody";
const ATTRIBUTES: &str = "MessageAttributes";

impl Request {
    fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).map(Self).ok()
    }

    fn text(&self) -> &str {
        self.0.get(BODY).and_then(Value::as_str).unwrap_or_default()
    }

    /// The webhook in it.
    fn webhook(&self) -> Option<Message> {
        let attributes = self.0.get(ATTRIBUTES);
        Message::decode(self.text(), |name| attributes?.get(name)?.get("StringValue")?.as_str()).ok()
    }

    /// The webhook's body; of what no receiver wrote, the message's.
    fn body<'a>(&'a self, webhook: Option<&'a Message>) -> &'a [u8] {
        webhook.map_or(self.text().as_bytes(), |webhook| &webhook.body)
    }

    /// The change to this body, and to these attributes beside the others.
    fn with(mut self, body: String, attributes: Vec<Attribute>) -> JournalChange {
        self.0.insert(BODY.to_owned(), body.into());
        if let Some(known) = self.0.get_mut(ATTRIBUTES).and_then(Value::as_object_mut) {
            known.remove(attribute::ENCODING);
            for own in attributes {
                let value = json!({ "DataType": own.data_type, "StringValue": own.value });
                known.insert(own.name.to_owned(), value);
            }
        }
        JournalChange::Replaced(Value::Object(self.0).to_string())
    }
}

/// Looks for the learner in the messages of the journal, also in those that were deleted since.
pub(super) fn search_journal(folder: &Path, learner: &Learner) -> anyhow::Result<Found<()>> {
    let mut found = Found::default();
    each_in_journal(&journal_file(folder), |request| {
        let Some(request) = Request::read(request) else { return };
        let webhook = request.webhook();
        let message_id = webhook.as_ref().map(|webhook| webhook.id.as_str());
        let received_at = webhook.as_ref().map(|webhook| webhook.received_at);
        let body = request.body(webhook.as_ref());
        found.add((), Webhook { place: "queues.jsonl", message_id, received_at }, body, learner.find(body));
    })?;
    Ok(found)
}

/// Writes the journal anew, without the learner and without what was deleted. Returns the messages with others whose
/// payload has changed: the ledger has to know.
pub(super) fn erase_from_journal(folder: &Path, learner: &Learner) -> anyhow::Result<Vec<Redacted>> {
    let mut all_redacted = Vec::new();
    rewrite_journal(&journal_file(folder), |text| {
        let Some(request) = Request::read(text) else { return JournalChange::Kept };
        let webhook = request.webhook();
        let redacted = match learner.find(request.body(webhook.as_ref())).part {
            Part::Nothing => return JournalChange::Kept,
            Part::Whole => return JournalChange::Removed,
            Part::Items(items) => items.redacted,
        };
        let Some(before) = webhook else {
            return request.with(String::from_utf8_lossy(&redacted).into_owned(), Vec::new());
        };
        // It has become smaller, so that it fits.
        let Ok(encoded) = (Message { body: redacted.clone(), ..before.clone() }).encode() else {
            return JournalChange::Removed;
        };
        all_redacted.push(Redacted { before, body: redacted });
        request.with(encoded.body, encoded.attributes)
    })?;
    Ok(all_redacted)
}

/// A message of a queue, and its body without the learner.
pub(super) struct Redacted {
    pub(super) before: Message,
    pub(super) body: Vec<u8>,
}

/// Looks for the learner in the history of the page.
pub(super) fn search_history(folder: &Path, learner: &Learner) -> anyhow::Result<Found<()>> {
    let mut found = Found::default();
    history::each_body(folder, |body| {
        let webhook = Webhook { place: "history.sqlite", message_id: None, received_at: None };
        found.add((), webhook, body, learner.find(body));
    })?;
    Ok(found)
}

/// Removes the learner from the history of the page.
pub(super) fn erase_from_history(folder: &Path, learner: &Learner) -> anyhow::Result<()> {
    history::rewrite(folder, |body| match learner.find(body).part {
        Part::Nothing => BodyChange::Kept,
        Part::Whole => BodyChange::Removed,
        Part::Items(items) => BodyChange::Replaced(items.redacted),
    })?;
    Ok(())
}

/// Writes both databases anew: what is deleted stays in their files otherwise.
pub(super) fn vacuum(folder: &Path) -> anyhow::Result<()> {
    history::vacuum(&state::database_file(folder))?;
    history::vacuum(&history::file(folder))?;
    Ok(())
}

/// Files that `learnink dev` has moved aside because it could not read them. Nothing can be erased from them.
pub(super) fn moved_aside(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.contains(".damaged-") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The name of the folder for people.
pub(super) fn name(folder: &Path) -> String {
    format!("the state of `learnink dev` in {}", quoted(folder))
}

#[cfg(test)]
mod tests {
    use learnink_webhook::MessageId;

    use super::super::learner::Ids;
    use super::*;

    const USER_ID: &str = "le2bB6Fi4CMgrIOIqMCJryZb9PR2";

    /// A line of a journal with this body.
    fn line(id: &str, body: String) -> String {
        let message = Message {
            id: MessageId::parse(id).unwrap(),
            signed_at_s: 0,
            signature: "v1,aa".to_owned(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            event_type: Some("example.list".to_owned()),
            body: body.into_bytes(),
            part: None,
            window: None,
        };
        let encoded = message.encode().unwrap();
        let attributes = encoded
            .attributes
            .into_iter()
            .map(|own| (own.name.to_owned(), json!({ "DataType": own.data_type, "StringValue": own.value })));
        let request = json!({
            "QueueUrl": "q", "MessageBody": encoded.body, "DelaySeconds": 7,
            "MessageAttributes": attributes.collect::<Map<_, _>>(),
        });
        json!({ "sent": { "id": id, "request": request } }).to_string() + "\n"
    }

    fn requests(folder: &Path) -> Vec<Request> {
        let mut requests = Vec::new();
        each_in_journal(&journal_file(folder), |request| requests.extend(Request::read(request))).unwrap();
        requests
    }

    #[test]
    fn a_message_with_others_keeps_all_but_the_learner_however_it_is_encoded() {
        let folder = tempfile::tempdir().unwrap();
        let list = |title: &str| {
            json!({ "data": [{ "user_id": "bob", "title": title }, { "user_id": USER_ID }] }).to_string()
        };
        let (short, long) = (list("Hi Bob"), list(&"Hi Bob ".repeat(100_000)));
        let alone = json!({ "data": { "user_id": USER_ID } }).to_string();
        let lines = [line("msg_1", short.clone()), line("msg_2", long.clone()), line("msg_3", alone)];
        assert!(lines[1].contains("gzip+base64"), "it is compressed");
        std::fs::write(journal_file(folder.path()), lines.concat()).unwrap();
        let mut ids = Ids::default();
        ids.add_user_id(USER_ID).unwrap();
        let learner = Learner::new(ids);
        let found = search_journal(folder.path(), &learner).unwrap();
        assert_eq!((found.whole.len(), found.items.len()), (1, 2));

        let redacted = erase_from_journal(folder.path(), &learner).unwrap();
        let bodies: Vec<_> =
            redacted.iter().map(|one| (one.before.id.as_str(), one.before.body.len())).collect();
        assert_eq!(bodies, [("msg_1", short.len()), ("msg_2", long.len())]);
        let left = requests(folder.path());
        let own = format!("{{\"user_id\":\"{USER_ID}\"}}");
        for (request, body) in left.iter().zip([short, long]) {
            let webhook = request.webhook().unwrap();
            assert!(webhook.body == body.replace(&own, "null").into_bytes() && webhook.signature == "v1,aa");
            assert_eq!(request.0["DelaySeconds"], 7);
        }
        assert_eq!(left.len(), 2);
        let found = search_journal(folder.path(), &learner).unwrap();
        assert_eq!(found.count().all(), 0);
        // Nothing changes in a second run.
        assert!(erase_from_journal(folder.path(), &learner).unwrap().is_empty());
    }
}
