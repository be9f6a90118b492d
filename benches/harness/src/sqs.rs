//! SQS's handling of `SendMessage`: the message that is kept, and the answer with its checksums, which the SDK
//! compares with its own.
//! Source: Amazon SQS API reference, `SendMessage`; developer guide, "Calculating the MD5 message digest
//! for message attributes".

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

/// The body of a `SendMessage` request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Message {
    message_body: String,
    // Ordered by name, as the checksum requires.
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
}

/// One message attribute. Ours are all text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    data_type: String,
    string_value: String,
}

/// The answer to a `SendMessage`.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    #[serde(rename = "MessageId")]
    message_id: &'static str,
    #[serde(rename = "MD5OfMessageBody")]
    md5_of_body: String,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_attributes: Option<String>,
}

impl Message {
    /// SQS's answer once it has stored the message.
    pub(crate) fn sent(&self) -> Sent {
        Sent {
            message_id: "5fea7756-0ea4-451a-a703-a558b933e274",
            md5_of_body: hex(&Md5::digest(&self.message_body)),
            md5_of_attributes: (!self.message_attributes.is_empty()).then(|| self.md5_of_attributes()),
        }
    }

    /// The payload that it carries. Our receiver compresses the large ones, and says so in an attribute.
    ///
    /// # Errors
    ///
    /// When the body does not match the attribute.
    pub(crate) fn payload(&self) -> anyhow::Result<Vec<u8>> {
        match self.message_attributes.get("encoding").map(|encoding| encoding.string_value.as_str()) {
            None => Ok(self.message_body.clone().into_bytes()),
            Some("gzip+base64") => {
                let gzip = BASE64.decode(&self.message_body).context("the queued body is not base64")?;
                let mut payload = Vec::new();
                let decoded = GzDecoder::new(gzip.as_slice()).read_to_end(&mut payload);
                decoded.context("the queued body is not gzip")?;
                Ok(payload)
            }
            Some(other) => {
                bail!("a message was queued in the encoding `{other}`, which the bench does not know")
            }
        }
    }

    fn md5_of_attributes(&self) -> String {
        /// The code of a text value.
        const STRING: u8 = 1;

        let mut md5 = Md5::new();
        for (name, attribute) in &self.message_attributes {
            update(&mut md5, name);
            update(&mut md5, &attribute.data_type);
            md5.update([STRING]);
            update(&mut md5, &attribute.string_value);
        }
        hex(&md5.finalize())
    }
}

/// Adds a text after its length, which has four bytes.
fn update(md5: &mut Md5, text: &str) {
    // SQS takes 1 MiB.
    md5.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    md5.update(text);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(request: serde_json::Value) -> Message {
        serde_json::from_value(request).unwrap()
    }

    #[test]
    fn the_checksum_of_the_body_is_its_md5() {
        let sent = message(json!({"MessageBody": "This is a test message"})).sent();
        // The example of the API reference.
        assert_eq!(sent.md5_of_body, "fafb00f5732ab283681e124bf8747ed1");
        assert_eq!(sent.md5_of_attributes, None);
    }

    #[test]
    fn the_checksum_of_the_attributes_does_not_depend_on_their_order() {
        let text = |value: &str| json!({"DataType": "String", "StringValue": value});
        let attributes = json!({"b": text("2"), "a": text("1")});
        let sent = message(json!({"MessageBody": "", "MessageAttributes": attributes})).sent();
        let by_hand = b"\0\0\0\x01a\0\0\0\x06String\x01\0\0\0\x011\0\0\0\x01b\0\0\0\x06String\x01\0\0\0\x012";
        assert_eq!(sent.md5_of_attributes, Some(hex(&Md5::digest(by_hand))));
    }

    #[test]
    fn a_compressed_payload_is_read_back() {
        let encoding = json!({"DataType": "String", "StringValue": "gzip+base64"});
        // printf hello | gzip -n | base64
        let body = "H4sIAAAAAAAAA8tIzcnJBwCGphA2BQAAAA==";
        let message = message(json!({"MessageBody": body, "MessageAttributes": {"encoding": encoding}}));
        assert_eq!(message.payload().unwrap(), b"hello");
    }

    #[test]
    fn an_unknown_encoding_is_an_error() {
        let encoding = json!({"DataType": "String", "StringValue": "zstd"});
        let message = message(json!({"MessageBody": "", "MessageAttributes": {"encoding": encoding}}));
        assert!(message.payload().is_err());
    }
}
