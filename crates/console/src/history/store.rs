//! The file: its tables, and the one connection that writes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};

use super::state::{State, standing};
use super::{Entry, Happening, HistoryError, LONGEST, MOST_BYTES, MOST_MESSAGES, Notice};

/// The version of the tables and of the JSON in them. A change of either is a new version, and the old file is moved
/// aside: it is a help for the day, not an archive.
const VERSION: i64 = 1;

/// `message` is what entries of one message have in common: the message id, or a name that no message id can be,
/// because it has a full stop.
const TABLES: &str = "
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    message TEXT NOT NULL,
    sqs TEXT,
    bytes INTEGER NOT NULL,
    json TEXT NOT NULL,
    headers TEXT,
    body BLOB
);
CREATE INDEX entries_of_a_message ON entries (message, at_us, seq);
CREATE INDEX entries_of_an_sqs_message ON entries (sqs, seq) WHERE sqs IS NOT NULL;
CREATE INDEX entries_by_time ON entries (at_us);
CREATE TABLE messages (
    message TEXT PRIMARY KEY,
    arrived INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    event_type TEXT,
    state TEXT NOT NULL,
    until_us INTEGER,
    attempts INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    why TEXT,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX messages_by_arrival ON messages (arrived);
CREATE TABLE documents (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
";

/// How many of a message's entries say where it stands: the newest. A request that is not verified may claim the id of
/// any message, so that one message may have any number of entries, and each batch derives its line anew.
const MOST_SUMMARIZED: usize = 500;

/// How long a statement waits for another connection.
pub(super) const BUSY: Duration = Duration::from_secs(2);

const DAMAGED: &str = "is damaged";

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
}

/// Why a file is not used, and what is done with it.
enum Unusable {
    /// Its content is of no use, for this reason in words: the file is moved aside.
    Content(&'static str),
    /// `SQLite` failed, and the content may be whole: the file stays where it is.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Unusable {
    /// Only two errors are about the file's content. A full disk, a lock or a missing right says nothing about it.
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Content(DAMAGED),
            _ => Self::Failed(error),
        }
    }
}

impl Store {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path, now: Timestamp) -> Result<(Self, Option<Notice>), HistoryError> {
        let mut notice = None;
        protect(path)?;
        let mut connection = match usable(path) {
            Ok(connection) => connection,
            Err(Unusable::Failed(source)) => return Err(HistoryError::Sqlite { doing: "open", source }),
            Err(Unusable::Content(why)) => {
                notice = Some(Notice { why, moved_to: move_aside(path, now)? });
                protect(path)?;
                fresh(path).map_err(|source| HistoryError::Sqlite { doing: "make", source })?
            }
        };
        let pruned = connection.transaction().and_then(|transaction| {
            prune(&transaction, now)?;
            transaction.commit()
        });
        pruned.map_err(|source| HistoryError::Sqlite { doing: "open", source })?;
        Ok((Self { connection }, notice))
    }

    /// The number of the newest entry.
    pub(super) fn newest(&self) -> Result<i64, HistoryError> {
        newest(&self.connection).map_err(|source| HistoryError::Sqlite { doing: "read", source })
    }

    /// Writes all or nothing, removes what is beyond the limits, and returns the number of the newest entry. A document
    /// has a kind and an id; `None` in place of its JSON removes it.
    pub(super) fn write(
        &mut self,
        entries: Vec<Entry>,
        documents: &BTreeMap<(String, String), Option<String>>,
        now: Timestamp,
    ) -> Result<i64, HistoryError> {
        let sqlite = |source| HistoryError::Sqlite { doing: "write", source };
        let transaction = self.connection.transaction().map_err(sqlite)?;
        let mut touched = BTreeMap::<_, Added>::new();
        for entry in entries {
            let (message, added) = insert(&transaction, entry)?;
            touched.entry(message).or_default().add(&added);
        }
        for (message, added) in &touched {
            summarize(&transaction, message, added).map_err(sqlite)?;
        }
        for ((kind, id), json) in documents {
            let upsert = "INSERT INTO documents VALUES (?1, ?2, ?3) \
                          ON CONFLICT (kind, id) DO UPDATE SET json = excluded.json";
            let delete = "DELETE FROM documents WHERE kind = ?1 AND id = ?2";
            match json {
                Some(json) => transaction.execute(upsert, params![kind, id, json]),
                None => transaction.execute(delete, params![kind, id]),
            }
            .map_err(sqlite)?;
        }
        prune(&transaction, now).map_err(sqlite)?;
        let newest = newest(&transaction).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        Ok(newest)
    }
}

/// The file that is there, for [`super::rewrite`].
pub(super) fn existing(path: &Path) -> Result<Connection, HistoryError> {
    usable(path).map_err(|unusable| match unusable {
        Unusable::Content(why) => HistoryError::Unusable { path: path.to_owned(), why },
        Unusable::Failed(source) => HistoryError::Sqlite { doing: "open", source },
    })
}

/// Makes the file if there is none, and lets only its owner read it. `SQLite` gives the same rights to the files
/// beside it.
fn protect(path: &Path) -> Result<(), HistoryError> {
    let io_error = |source| HistoryError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(io_error)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io_error)?;
    }
    drop(file);
    Ok(())
}

/// The file, if it is whole and of this version, or has no tables yet.
fn usable(path: &Path) -> Result<Connection, Unusable> {
    let connection = connect(path)?;
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    // A start that ended early, for example on a full disk, may have left a file without tables.
    if version == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0 {
        make_tables(&connection)?;
        return Ok(connection);
    }
    if version != VERSION {
        return Err(Unusable::Content("was written by another version"));
    }
    let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))?;
    if check == "ok" { Ok(connection) } else { Err(Unusable::Content(DAMAGED)) }
}

/// A new file's connection.
fn fresh(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    make_tables(&connection)?;
    Ok(connection)
}

fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // Readers do not wait for the writer, nor the writer for the disk: what a crash of the machine loses is only
    // the last of the history.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    // Large bodies let the log grow; it shrinks again.
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Moves the file and those beside it.
fn move_aside(path: &Path, now: Timestamp) -> Result<PathBuf, HistoryError> {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let moved_to = with(&format!(".damaged-{}", now.as_second()));
    fs::rename(path, &moved_to).map_err(|source| HistoryError::Io { path: path.to_owned(), source })?;
    // They belong to the old file, and would damage the new one.
    for end in ["-wal", "-shm"] {
        match fs::remove_file(with(end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HistoryError::Io { path: with(end), source: error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(moved_to)
}

fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    let newest = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries'";
    connection.query_row(newest, [], |row| row.get(0))
}

/// What is added to a message.
#[derive(Debug, Default)]
struct Added {
    requests: usize,
    records: usize,
    bytes: usize,
}

impl Added {
    const fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Adds one entry, and returns its message.
fn insert(transaction: &Transaction<'_>, entry: Entry) -> Result<(String, Added), HistoryError> {
    let sqlite = |source| HistoryError::Sqlite { doing: "write", source };
    let (happening, content) = match entry {
        Entry::Request(request) => (Happening::Request(request.facts), Some(request.content)),
        Entry::Record(record) => (Happening::Record(record), None),
        Entry::Queue(call) => (Happening::Queue(call), None),
    };
    let (message, sqs) = match &happening {
        Happening::Request(request) => {
            (request.message_id.as_ref().or(request.claimed_message_id.as_ref()).cloned(), None)
        }
        Happening::Record(record) => {
            of_sqs_message(transaction, record.message_id.as_ref(), &record.sqs_message_id).map_err(sqlite)?
        }
        Happening::Queue(call) => {
            of_sqs_message(transaction, call.message_id.as_ref(), &call.sqs_message_id).map_err(sqlite)?
        }
    };
    let json = serde_json::to_string(&happening)?;
    let (headers, body) = match content {
        Some(content) => (Some(serde_json::to_string(&content.headers)?), Some(content.body)),
        None => (None, None),
    };
    let bytes = json.len() + headers.as_ref().map_or(0, String::len) + body.as_ref().map_or(0, Vec::len);
    let message = match message {
        Some(message) => message,
        None => format!("request.{}", newest(transaction).map_err(sqlite)? + 1),
    };
    let insert = "INSERT INTO entries (at_us, message, sqs, json, headers, body, bytes) \
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let at = happening.at().as_microsecond();
    transaction
        .prepare_cached(insert)
        .and_then(|mut statement| statement.execute(params![at, message, sqs, json, headers, body, bytes]))
        .map_err(sqlite)?;
    let (requests, records) = match &happening {
        Happening::Request(_) => (1, 0),
        Happening::Record(_) => (0, 1),
        Happening::Queue(_) => (0, 0),
    };
    Ok((message, Added { requests, records, bytes }))
}

/// The message of an SQS message, and the SQS message id. Without a message id, an earlier entry may have it.
fn of_sqs_message(
    transaction: &Transaction<'_>,
    message_id: Option<&String>,
    sqs_message_id: &str,
) -> rusqlite::Result<(Option<String>, Option<String>)> {
    let message = match message_id {
        Some(message_id) => Some(message_id.clone()),
        None => transaction
            .prepare_cached("SELECT message FROM entries WHERE sqs = ?1 ORDER BY seq DESC LIMIT 1")?
            .query_row([sqs_message_id], |row| row.get(0))
            .optional()?,
    };
    let message = message.unwrap_or_else(|| format!("sqs.{sqs_message_id}"));
    Ok((Some(message), Some(sqs_message_id.to_owned())))
}

/// Derives the line of a message in the list from the line before, what is added, and its newest entries.
fn summarize(transaction: &Transaction<'_>, message: &str, added: &Added) -> rusqlite::Result<()> {
    let before =
        "SELECT arrived, at_us, event_type, attempts, deliveries, bytes FROM messages WHERE message = ?1";
    let before = transaction
        .prepare_cached(before)?
        .query_row([message], |row| {
            let counts = (row.get::<_, usize>(3)?, row.get::<_, usize>(4)?, row.get::<_, usize>(5)?);
            Ok(((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?), row.get::<_, Option<String>>(2)?, counts))
        })
        .optional()?;
    let (mut arrived, event_type_before, (attempts, deliveries, bytes)) = match before {
        Some((arrived, event_type, counts)) => (Some(arrived), event_type, counts),
        None => (None, None, (0, 0, 0)),
    };
    let newest =
        "SELECT seq, at_us, json FROM entries WHERE message = ?1 ORDER BY at_us DESC, seq DESC LIMIT ?2";
    let mut select = transaction.prepare_cached(newest)?;
    let rows = select.query_map(params![message, MOST_SUMMARIZED], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
    })?;
    let mut happenings = Vec::new();
    let mut oldest = None;
    for row in rows {
        let (seq, at_us, json) = row?;
        oldest = Some((seq, at_us));
        let Ok(happening) = serde_json::from_str(&json) else {
            // Without the error, which would repeat a part of the entry.
            tracing::warn!(entry = seq, "an entry of the history cannot be read");
            continue;
        };
        if matches!(happening, Happening::Request(_)) {
            arrived = arrived.max(Some((seq, at_us)));
        }
        happenings.push(happening);
    }
    happenings.reverse();
    // Without a request it was sent by hand, or the request is no longer kept.
    let Some((arrived, at_us)) = arrived.or(oldest) else { return Ok(()) };
    let standing = standing(&happenings);
    let event_type = happenings.iter().rev().find_map(|happening| match happening {
        Happening::Request(request) => request.event_type.clone(),
        Happening::Record(_) | Happening::Queue(_) => None,
    });
    let replace = "INSERT OR REPLACE INTO messages \
                   (message, arrived, at_us, event_type, state, until_us, attempts, deliveries, why, bytes) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    transaction.prepare_cached(replace).and_then(|mut statement| {
        statement.execute(params![
            message,
            arrived,
            at_us,
            event_type.or(event_type_before),
            standing.state.name(),
            standing.until.map(Timestamp::as_microsecond),
            attempts + added.requests,
            deliveries + added.records,
            why(standing.state, &happenings),
            bytes + added.bytes
        ])
    })?;
    Ok(())
}

/// Why a message is not done, in words.
fn why(state: State, happenings: &[Happening]) -> Option<String> {
    let of_record = || {
        happenings.iter().rev().find_map(|happening| match happening {
            Happening::Record(record) => {
                let reason = record.reason.as_deref()?;
                Some(match &record.handler {
                    Some(handler) => format!("{handler}: {reason}"),
                    None => reason.to_owned(),
                })
            }
            Happening::Request(_) | Happening::Queue(_) => None,
        })
    };
    let of_request = || {
        happenings.iter().rev().find_map(|happening| match happening {
            Happening::Request(request) => {
                let injected = request.injected.as_ref().map(|fault| format!("injected: {fault}"));
                injected.or_else(|| request.detail.clone()).or_else(|| request.reason.clone())
            }
            Happening::Record(_) | Happening::Queue(_) => None,
        })
    };
    match state {
        State::Refused | State::NotStored => of_request(),
        State::ComingBack | State::Dead | State::Dropped => of_record(),
        State::Waiting | State::InFlight | State::Done => None,
    }
}

/// Removes what is beyond the limits: the oldest first.
fn prune(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    let oldest = now.checked_sub(LONGEST).unwrap_or(Timestamp::MIN).as_microsecond();
    let mut removed = remove_entries_until(transaction, oldest)?;
    let too_many = "SELECT arrived FROM messages ORDER BY arrived DESC LIMIT 1 OFFSET ?1";
    let arrived = transaction
        .prepare_cached(too_many)?
        .query_row([MOST_MESSAGES], |row| row.get::<_, i64>(0))
        .optional()?;
    if let Some(arrived) = arrived {
        let old = "SELECT message FROM messages WHERE arrived <= ?1";
        transaction.execute(&format!("DELETE FROM entries WHERE message IN ({old})"), [arrived])?;
        transaction.execute("DELETE FROM messages WHERE arrived <= ?1", [arrived])?;
    }
    let mut total: i64 = transaction
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM messages")?
        .query_row([], |row| row.get(0))?;
    let most = i64::try_from(MOST_BYTES).unwrap_or(i64::MAX);
    if total > most {
        // Entry by entry: one message may have most of the bytes. A tenth more, so that the next does not have to.
        let most = most / 10 * 9;
        let mut last = None;
        let mut select = transaction.prepare_cached("SELECT seq, bytes FROM entries ORDER BY seq")?;
        let mut rows = select.query([])?;
        while total > most
            && let Some(row) = rows.next()?
        {
            last = Some(row.get::<_, i64>(0)?);
            total -= row.get::<_, i64>(1)?;
        }
        removed += transaction.execute("DELETE FROM entries WHERE seq <= ?1", [last])?;
    }
    if removed > 0 {
        let sizes = "UPDATE messages SET bytes = \
                     (SELECT coalesce(sum(bytes), 0) FROM entries WHERE entries.message = messages.message)";
        transaction.execute(sizes, [])?;
        transaction.execute("DELETE FROM messages WHERE bytes = 0", [])?;
    }
    Ok(())
}

fn remove_entries_until(transaction: &Transaction<'_>, at_us: i64) -> rusqlite::Result<usize> {
    transaction.prepare_cached("DELETE FROM entries WHERE at_us < ?1")?.execute([at_us])
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_content_is_damage() {
        let is_damage = |code| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            matches!(Unusable::from(error), Unusable::Content(DAMAGED))
        };
        assert!(is_damage(ffi::SQLITE_NOTADB) && is_damage(ffi::SQLITE_CORRUPT));
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_PERM,
            ffi::SQLITE_NOMEM,
        ] {
            assert!(!is_damage(code), "{code}");
        }
    }
}
