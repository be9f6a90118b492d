//! The file with letters that were dropped: one on each line, as JSON.
//!
//! A line has the body and every attribute exactly. Text is JSON text, and bytes are base64. Only the owner may read the
//! file: it has learners' data.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use learnink_local::terminal::quoted;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::letter::{Attributes, attributes, fingerprint};
use super::queue::{Outgoing, sqs_id};

/// The version of the lines.
const FORMAT: &str = "learnink-dead-letter-1";

/// A letter on a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    format: String,
    /// The name that SQS gave it, for people.
    sqs_message_id: String,
    body: String,
    attributes: BTreeMap<String, Value>,
    /// What SQS knew of it, for people: it cannot be put back.
    #[serde(default)]
    system: BTreeMap<String, String>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    /// Such as `String`, `Number.int` or `Binary`.
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// A line that cannot be used. Its content is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("is not a dead letter that `dlq drop` wrote")]
    Damaged,
    #[error("was written by another version of `learnink`")]
    UnknownFormat,
}

/// The line of a message.
pub(super) fn encode(message: &Message) -> serde_json::Result<String> {
    let value = |value: &MessageAttributeValue| Value {
        r#type: value.data_type.clone(),
        text: value.string_value.clone(),
        base64: value.binary_value.as_ref().map(|bytes| BASE64.encode(bytes)),
    };
    let attributes = attributes(message);
    let system = message.attributes.iter().flatten();
    serde_json::to_string(&Line {
        format: FORMAT.to_owned(),
        sqs_message_id: sqs_id(message),
        body: message.body.clone().unwrap_or_default(),
        attributes: attributes.iter().map(|(name, attribute)| (name.clone(), value(attribute))).collect(),
        system: system.map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect(),
    })
}

/// The message of a line.
pub(super) fn decode(line: &[u8]) -> Result<Outgoing, Unusable> {
    /// Only to tell a line of another version from a damaged one.
    #[derive(Deserialize)]
    struct Versioned {
        format: String,
    }
    let versioned: Versioned = serde_json::from_slice(line).map_err(|_| Unusable::Damaged)?;
    if versioned.format != FORMAT {
        return Err(Unusable::UnknownFormat);
    }
    let line: Line = serde_json::from_slice(line).map_err(|_| Unusable::Damaged)?;
    let attribute = |(name, value): (String, Value)| {
        let bytes = value.base64.map(|base64| BASE64.decode(base64).map(Blob::new)).transpose();
        let attribute = MessageAttributeValue::builder()
            .data_type(value.r#type)
            .set_string_value(value.text)
            .set_binary_value(bytes.map_err(|_| Unusable::Damaged)?);
        attribute.build().map(|attribute| (name, attribute)).map_err(|_| Unusable::Damaged)
    };
    let attributes: Attributes = line.attributes.into_iter().map(attribute).collect::<Result<_, _>>()?;
    Ok(Outgoing { body: line.body, attributes })
}

impl Outgoing {
    /// The hash by which a letter is recognised that is on the queue already.
    pub(super) fn fingerprint(&self) -> String {
        fingerprint(&self.body, &self.attributes)
    }
}

/// A file that only its owner may read, and that did not exist.
pub(crate) fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).with_context(|| format!("cannot create {}", quoted(path)))
}

/// A file that letters are written to.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: File,
}

impl Kept {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { path: path.to_owned(), file: create(path)? })
    }

    /// Writes messages, and returns once they are on the disk.
    pub(super) fn write(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        let mut lines = String::new();
        for message in messages {
            lines.push_str(&encode(message)?);
            lines.push('\n');
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_all());
        written.with_context(|| format!("cannot write {}; its letters were not dropped", quoted(&self.path)))
    }
}

/// Reads a file line by line, so that it need not fit into memory. A last line without an end was cut off by a kill: its
/// letter was not dropped, and it is left out.
pub(super) fn for_each(
    path: &Path,
    mut each: impl FnMut(Outgoing) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot read {}", quoted(path));
    let mut file = BufReader::new(File::open(path).with_context(failed)?);
    let mut line = Vec::new();
    for number in 1_usize.. {
        line.clear();
        let read: io::Result<usize> = file.read_until(b'\n', &mut line);
        if read.with_context(failed)? == 0 || !line.ends_with(b"\n") {
            return Ok(());
        }
        let letter = decode(&line);
        each(letter.with_context(|| format!("line {number} of {} cannot be restored", quoted(path)))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::MessageSystemAttributeName;
    use proptest::prelude::*;

    use super::*;

    /// A name, a type, and text or bytes.
    type Given = (String, String, Option<String>, Option<Vec<u8>>);

    fn message(body: &str, attributes: Vec<Given>) -> Message {
        let mut message = Message::builder()
            .message_id("sqs-1")
            .body(body)
            .attributes(MessageSystemAttributeName::SentTimestamp, "1");
        for (name, kind, text, bytes) in attributes {
            let value = MessageAttributeValue::builder().data_type(kind).set_string_value(text);
            let value = value.set_binary_value(bytes.map(Blob::new));
            message = message.message_attributes(name, value.build().unwrap());
        }
        message.build()
    }

    proptest! {
        #[test]
        fn what_is_dropped_is_restored_byte_by_byte(
            body in any::<String>(),
            attributes in prop::collection::btree_map("[a-z-]{1,8}", prop_oneof![
                any::<String>().prop_map(|text| ("String".to_owned(), Some(text), None)),
                any::<i64>().prop_map(|number| ("Number.int".to_owned(), Some(number.to_string()), None)),
                any::<Vec<u8>>().prop_map(|bytes| ("Binary.x".to_owned(), None, Some(bytes))),
            ], 0..10),
        ) {
            let attributes = attributes.into_iter().map(|(name, (kind, text, bytes))| (name, kind, text, bytes)).collect();
            let message = message(&body, attributes);
            let line = encode(&message).unwrap();
            prop_assert!(!line.contains('\n'));
            let restored = decode(line.as_bytes()).unwrap();
            prop_assert_eq!(&restored.body, &body);
            prop_assert_eq!(&restored.attributes, &super::attributes(&message));
            prop_assert_eq!(restored.fingerprint(), fingerprint(&body, &super::attributes(&message)));
        }

        #[test]
        fn any_line_is_a_letter_or_refused(line in prop_oneof![any::<String>(), r#"\{"format":"learnink-dead-letter-[12]".{0,40}\}"#]) {
            let _ = decode(line.as_bytes());
        }
    }

    #[test]
    fn a_line_of_another_version_and_a_damaged_one_are_told_apart() {
        let line = encode(&message("x", Vec::new())).unwrap();
        assert_eq!(
            decode(line.replace("letter-1", "letter-2").as_bytes()).unwrap_err(),
            Unusable::UnknownFormat
        );
        assert_eq!(decode(line.replace("body", "bodi").as_bytes()).unwrap_err(), Unusable::Damaged);
        assert_eq!(decode(b"+254705408079").unwrap_err(), Unusable::Damaged);
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_out_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters");
        let line = encode(&message("x", Vec::new())).unwrap();
        let read = |text: String| {
            std::fs::write(&path, text).unwrap();
            let mut count = 0;
            for_each(&path, |_| {
                count += 1;
                Ok(())
            })
            .map(|()| count)
        };
        assert_eq!(read(format!("{line}\n{line}\n{}", &line[..20])).unwrap(), 2);
        let error = read(format!("{line}\nnonsense\n{line}\n")).unwrap_err().to_string();
        assert!(error.starts_with("line 2 of "), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_may_read_the_file_and_no_other_is_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters");
        Kept::create(&path).unwrap().write(&[message("x", Vec::new())]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Kept::create(&path).is_err());
    }
}
