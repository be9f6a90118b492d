//! Removes bodies from the file, because a learner asked for it. No pipeline may run in the folder meanwhile.
//!
//! Bodies are in two places: those of the requests, and the payloads of what LearnInk's side has sent, which are documents.

use std::path::Path;

use rusqlite::{Connection, params};
use serde_json::Value;

use super::store::existing;
use super::{HistoryError, file};

/// The member of a document that is a body.
const PAYLOAD: &str = "payload";

/// What becomes of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyChange {
    /// It stays.
    Kept,
    /// It goes, and with it everything that is known of its message.
    Removed,
    /// Another body takes its place.
    Replaced(Vec<u8>),
}

/// Hands each body in the history of a state folder to `take`. Without a history, there is none.
///
/// # Errors
///
/// [`HistoryError`] if the file cannot be read, or is not of this version.
pub fn each_body(folder: &Path, mut take: impl FnMut(&[u8])) -> Result<(), HistoryError> {
    let path = file(folder);
    if !path.exists() {
        return Ok(());
    }
    let connection = existing(&path)?;
    bodies(&connection, |_, body| take(body)).and_then(|()| payloads(&connection, |_, body| take(body)))
}

/// Changes the bodies in the history of a state folder, all of them or none. [`vacuum`] then removes the bytes.
///
/// # Errors
///
/// [`HistoryError`] if the file cannot be read or written, or is not of this version.
pub fn rewrite(folder: &Path, mut change: impl FnMut(&[u8]) -> BodyChange) -> Result<(), HistoryError> {
    let path = file(folder);
    if !path.exists() {
        return Ok(());
    }
    let sqlite = |source| HistoryError::Sqlite { doing: "write", source };
    let mut connection = existing(&path)?;
    let transaction = connection.transaction().map_err(sqlite)?;
    let mut planned = Vec::new();
    let mut add = |of: Changed, body: &[u8]| match change(body) {
        BodyChange::Kept => {}
        change @ (BodyChange::Removed | BodyChange::Replaced(_)) => planned.push((of, change)),
    };
    bodies(&transaction, &mut add)?;
    payloads(&transaction, &mut add)?;
    for (of, change) in planned {
        let done = match (of, change) {
            (_, BodyChange::Kept) => Ok(0),
            (Changed::Request { message, .. }, BodyChange::Removed) => transaction
                .execute("DELETE FROM entries WHERE message = ?1", [&message])
                .and_then(|_| transaction.execute("DELETE FROM messages WHERE message = ?1", [&message])),
            (Changed::Request { seq, .. }, BodyChange::Replaced(body)) => {
                transaction.execute("UPDATE entries SET body = ?2 WHERE seq = ?1", params![seq, body])
            }
            (Changed::Document { kind, id, .. }, BodyChange::Removed) => {
                transaction.execute("DELETE FROM documents WHERE kind = ?1 AND id = ?2", [kind, id])
            }
            (Changed::Document { kind, id, mut json }, BodyChange::Replaced(body)) => {
                if let Some(payload) = json.get_mut(PAYLOAD) {
                    *payload = String::from_utf8_lossy(&body).into();
                }
                let update = "UPDATE documents SET json = ?3 WHERE kind = ?1 AND id = ?2";
                transaction.execute(update, params![kind, id, json.to_string()])
            }
        };
        done.map_err(sqlite)?;
    }
    transaction.commit().map_err(sqlite)
}

/// Where a body is.
enum Changed {
    Request { seq: i64, message: String },
    Document { kind: String, id: String, json: Value },
}

fn bodies(connection: &Connection, mut take: impl FnMut(Changed, &[u8])) -> Result<(), HistoryError> {
    let select = "SELECT seq, message, body FROM entries WHERE body IS NOT NULL";
    let read = || {
        let mut select = connection.prepare(select)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(2)?;
            take(Changed::Request { seq: row.get(0)?, message: row.get(1)? }, &body);
        }
        Ok(())
    };
    in_order(read)
}

fn payloads(connection: &Connection, mut take: impl FnMut(Changed, &[u8])) -> Result<(), HistoryError> {
    let read = || {
        let mut select = connection.prepare("SELECT kind, id, json FROM documents")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(2)?;
            let Ok(json) = serde_json::from_str::<Value>(&text) else { continue };
            let Some(payload) = json.get(PAYLOAD).and_then(Value::as_str).map(str::to_owned) else {
                continue;
            };
            take(Changed::Document { kind: row.get(0)?, id: row.get(1)?, json }, payload.as_bytes());
        }
        Ok(())
    };
    in_order(read)
}

fn in_order(read: impl FnOnce() -> rusqlite::Result<()>) -> Result<(), HistoryError> {
    read().map_err(|source| HistoryError::Sqlite { doing: "read", source })
}

/// Writes an `SQLite` file anew: without it, what was deleted stays in the file until other data takes its place. Does
/// nothing if the file does not exist.
///
/// # Errors
///
/// [`HistoryError`] if the file cannot be written, or another program reads it.
pub fn vacuum(path: &Path) -> Result<(), HistoryError> {
    if !path.exists() {
        return Ok(());
    }
    let sqlite = |source| HistoryError::Sqlite { doing: "write", source };
    let connection = Connection::open(path).map_err(sqlite)?;
    connection.busy_timeout(super::store::BUSY).map_err(sqlite)?;
    connection.execute_batch("VACUUM").map_err(sqlite)?;
    // The log beside the file still has the old pages, and the file too until the log is written back.
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match busy.map_err(sqlite)? {
        0 => Ok(()),
        _ => Err(HistoryError::Unusable { path: path.to_owned(), why: "is in use by another program" }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::super::tests::time;
    use super::*;

    const SECRET: &str = "le2bB6Fi4CMgrIOIqMCJryZb9PR2";

    /// A history with two requests and two documents, one of each with the text.
    fn history() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        // Without the thread that writes: it would end at some time later, and with it the files beside this one.
        drop(Store::open(&file(folder.path()), time(0)).unwrap());
        let connection = Connection::open(file(folder.path())).unwrap();
        for (message, body) in [("msg_1", SECRET.repeat(200)), ("msg_2", "other".to_owned())] {
            let insert =
                "INSERT INTO entries (at_us, message, bytes, json, body) VALUES (0, ?1, 1, '{}', ?2)";
            connection.execute(insert, params![message, body.as_bytes()]).unwrap();
            let insert = "INSERT INTO messages VALUES (?1, 1, 0, NULL, 'done', NULL, 1, 1, NULL, 1)";
            connection.execute(insert, [message]).unwrap();
            let json = serde_json::json!({ "id": message, "payload": body }).to_string();
            connection.execute("INSERT INTO documents VALUES ('message', ?1, ?2)", [message, &json]).unwrap();
        }
        folder
    }

    fn bytes(folder: &Path) -> Vec<u8> {
        let files = std::fs::read_dir(folder).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    fn has(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn left(folder: &Path) -> Vec<String> {
        let mut left = Vec::new();
        each_body(folder, |body| left.push(String::from_utf8_lossy(body).into_owned())).unwrap();
        left
    }

    fn changed(with: &BodyChange) -> tempfile::TempDir {
        let folder = history();
        assert!(has(&bytes(folder.path()), SECRET));
        let is_meant = |body: &[u8]| has(body, SECRET);
        rewrite(folder.path(), |body| if is_meant(body) { with.clone() } else { BodyChange::Kept }).unwrap();
        vacuum(&file(folder.path())).unwrap();
        assert!(!has(&bytes(folder.path()), SECRET), "the bytes are still in a file");
        folder
    }

    #[test]
    fn a_removed_body_is_in_no_byte_of_the_files_and_the_others_stay() {
        let folder = changed(&BodyChange::Removed);
        assert_eq!(left(folder.path()), ["other", "other"]);
        let connection = Connection::open(file(folder.path())).unwrap();
        let messages = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(messages("SELECT count(*) FROM messages"), 1);
    }

    #[test]
    fn a_replaced_body_takes_the_place_of_the_old_one() {
        let folder = changed(&BodyChange::Replaced(b"new".to_vec()));
        assert_eq!(left(folder.path()), ["new", "other", "new", "other"]);
    }

    #[test]
    fn without_a_history_there_is_nothing_to_do_and_another_versions_is_said() {
        let folder = tempfile::tempdir().unwrap();
        rewrite(folder.path(), |_| BodyChange::Removed).unwrap();
        vacuum(&file(folder.path())).unwrap();
        assert!(!file(folder.path()).exists());
        let folder = history();
        Connection::open(file(folder.path())).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = each_body(folder.path(), |_| {}).unwrap_err().to_string();
        assert!(error.ends_with("history.sqlite was written by another version"), "{error}");
    }
}
