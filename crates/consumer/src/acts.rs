//! Acts: what operators did with messages and secrets, kept beside the ledger's entries.
//!
//! A redrive, a drop or a restore changes what is on a queue, and the queue does not say who did it. So each leaves an
//! act: it is written before the first message moves, and again when the command ends. So does a command that stores a
//! secret. An act whose command was killed has no end. The consumer does not read acts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One command that moved, deleted or put back messages, or changed a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Names the act. Shape: 8 of `a-z` and `0-9`.
    pub id: String,
    /// What was done: `redrive`, `drop`, `restore`, `replay run`, `forget`, `secret put`, `secret rotate` or
    /// `secret drop-previous`. Text, because a newer version may know more.
    pub action: String,
    /// Who did it.
    pub by: String,
    /// Where: the queue or the secret, as the command named it.
    pub place: String,
    /// Which messages were asked for, as options of the command; of a secret only its fingerprint, and of a learner only
    /// the options.
    pub filter: String,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs, or if it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How many messages or secrets it was about; of a learner, how many places in all stores.
    pub selected: u64,
    /// For how many of them it is done.
    pub done: u64,
    /// How it ended, in words; empty while it runs.
    #[serde(default)]
    pub outcome: String,
}

/// An act that another version of this program wrote, or that was changed by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the act {id} cannot be read; another version of `learnink` wrote it")]
pub struct UnreadableAct {
    /// The act's id.
    pub id: String,
}

/// An act as it is stored.
pub type StoredAct = Result<Act, UnreadableAct>;
