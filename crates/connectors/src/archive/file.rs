//! One file of a stream: many records, a line each.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::record::{Record, RecordError};

/// The largest file, decompressed. Firehose writes a file once it has buffered 128 MiB at most, and more only if it
/// has fallen behind.
pub(super) const LARGEST_FILE_BYTES: usize = 1 << 30;

/// How gzip begins. Source: RFC 1952, "Member header and trailer".
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// The lines of a stream's file. `Debug` shows none of them.
pub struct RecordFile {
    text: Vec<u8>,
    /// Where each line ends, after its line feed.
    ends: Vec<usize>,
    is_damaged: bool,
}

impl RecordFile {
    /// Reads a file, in gzip or as it is before: some servers and tools decompress what they pass on.
    ///
    /// It never fails. Of a damaged file, it has the lines before the damage; see [`RecordFile::is_damaged`].
    pub fn decode(bytes: &[u8]) -> Self {
        let mut text = Vec::new();
        let read = if bytes.starts_with(&GZIP) {
            read_whole(MultiGzDecoder::new(bytes), &mut text)
        } else {
            read_whole(bytes, &mut text)
        };
        let is_whole = read.is_ok_and(|bytes| bytes <= LARGEST_FILE_BYTES);
        let feeds = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let ends: Vec<_> = feeds.map(|(at, _)| at + 1).collect();
        let end = ends.last().copied().unwrap_or_default();
        let is_damaged = !is_whole || end < text.len() || ends.is_empty();
        text.truncate(end);
        Self { text, ends, is_damaged }
    }

    /// Whether it is not as it was written: it is empty, it ends within a line, or its gzip is broken. Lines may be
    /// missing then.
    pub const fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// How many lines it has.
    pub const fn lines(&self) -> usize {
        self.ends.len()
    }

    /// The record in a line, from 1; `None` if the file has fewer lines.
    pub fn record(&self, line: usize) -> Option<Result<Record, RecordError>> {
        self.line(line).map(Record::from_line)
    }

    /// The bytes of a line, from 1, with its line feed.
    pub fn line(&self, line: usize) -> Option<&[u8]> {
        let index = line.checked_sub(1)?;
        let end = *self.ends.get(index)?;
        let start =
            index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        self.text.get(start..end)
    }

    /// The file in gzip, with some lines replaced: `with` gives the replacement of a line, which may be empty, or `None`
    /// to keep the line byte for byte. `None` if no line is left.
    pub fn rewritten(&self, with: impl Fn(usize) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(self.text.len() / 4), Compression::default());
        let mut is_empty = true;
        for line in 1..=self.lines() {
            let new = with(line);
            let bytes = new.as_deref().or_else(|| self.line(line)).unwrap_or_default();
            is_empty &= bytes.is_empty();
            // A `Vec` takes every byte.
            encoder.write_all(bytes).ok()?;
        }
        let gzip = encoder.finish().ok()?;
        (!is_empty).then_some(gzip)
    }

    /// Each line's number, from 1, and its record.
    pub fn records(&self) -> impl Iterator<Item = (usize, Result<Record, RecordError>)> {
        (1..=self.lines()).filter_map(|line| Some((line, self.record(line)?)))
    }
}

/// Reads all bytes, and at most one more than a file can have: that is enough to detect a larger one.
fn read_whole(from: impl Read, to: &mut Vec<u8>) -> io::Result<usize> {
    from.take(LARGEST_FILE_BYTES as u64 + 1).read_to_end(to)
}

impl fmt::Debug for RecordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordFile")
            .field("lines", &self.lines())
            .field("is_damaged", &self.is_damaged)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::MessageId;
    use proptest::prelude::*;

    use super::*;

    fn record(id: &str, body: &[u8]) -> Record {
        Record {
            id: MessageId::parse(id).unwrap(),
            signed_at_s: 1_772_366_400,
            signature: "v1,c2lnbmF0dXJl".to_owned(),
            received_at: "2026-03-01T12:00:00Z".parse().unwrap(),
            body: body.to_vec(),
            redaction: None,
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn ids(file: &RecordFile) -> Vec<String> {
        file.records().map(|(_, record)| record.unwrap().id.to_string()).collect()
    }

    /// Three records; the body of the second is neither JSON nor UTF-8, and that of the third has a line feed.
    fn three() -> Vec<u8> {
        let bodies = [("msg_1", &b"{}"[..]), ("msg_2", b"\xFF\n\0"), ("msg_3", b"{\n}")];
        bodies.map(|(id, body)| record(id, body).to_line()).concat()
    }

    #[test]
    fn each_line_is_a_record_whatever_its_body_has_and_however_the_file_is_compressed() {
        let text = three();
        // Firehose may write gzip in several members.
        let members = [gzip(&text[..40]), gzip(&text[40..])].concat();
        for bytes in [gzip(&text), text.clone(), members] {
            let file = RecordFile::decode(&bytes);
            assert_eq!(
                (ids(&file), file.is_damaged()),
                (["msg_1", "msg_2", "msg_3"].map(str::to_owned).into(), false)
            );
            assert!(file.record(2).unwrap().unwrap() == record("msg_2", b"\xFF\n\0"));
            assert!(file.record(0).is_none() && file.record(4).is_none());
        }
    }

    #[test]
    fn of_a_damaged_file_the_lines_before_the_damage_are_read_and_the_damage_is_said() {
        let text = three();
        let whole = gzip(&text);
        for damaged in [
            Vec::new(),
            whole[..whole.len() - 1].to_vec(),
            whole[..20].to_vec(),
            text[..text.len() - 1].to_vec(),
        ] {
            assert!(RecordFile::decode(&damaged).is_damaged(), "{} bytes", damaged.len());
        }
        let cut = RecordFile::decode(&text[..text.len() - 1]);
        assert_eq!(ids(&cut), ["msg_1", "msg_2"]);
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(RecordFile::decode(&flipped).is_damaged());
    }

    #[test]
    fn a_line_that_is_no_record_says_so_and_the_others_are_read() {
        let text = [
            record("msg_1", b"").to_line(),
            b"{\"version\":3}\n".to_vec(),
            b"\n".to_vec(),
            record("msg_2", b"").to_line(),
        ];
        let file = RecordFile::decode(&text.concat());
        let read: Vec<_> =
            file.records().map(|(line, record)| (line, record.map(|record| record.id.to_string()))).collect();
        assert_eq!(read[0], (1, Ok("msg_1".to_owned())));
        assert_eq!(read[1], (2, Err(RecordError::Version(3))));
        assert!(matches!(read[2], (3, Err(RecordError::NotARecord { .. }))));
        assert_eq!((read[3].clone(), file.is_damaged()), ((4, Ok("msg_2".to_owned())), false));
    }

    #[test]
    fn lines_are_replaced_or_dropped_and_the_others_stay_byte_for_byte() {
        let file = RecordFile::decode(&gzip(&three()));
        let new = record("msg_2", b"{}").to_line();
        let with = |line| match line {
            1 => Some(Vec::new()),
            2 => Some(new.clone()),
            _ => None,
        };
        let rewritten = RecordFile::decode(&file.rewritten(with).unwrap());
        assert_eq!(rewritten.text, [new.as_slice(), file.line(3).unwrap()].concat());
        assert!(file.rewritten(|_| Some(Vec::new())).is_none());
    }

    proptest! {
        #[test]
        fn any_body_comes_back_from_its_line(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let file = RecordFile::decode(&[record("msg_1", &body).to_line(), record("msg_2", b"").to_line()].concat());
            prop_assert!(file.record(1).unwrap().unwrap() == record("msg_1", &body));
            prop_assert_eq!(file.lines(), 2);
        }
    }
}
