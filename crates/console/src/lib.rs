//! The page in the browser of `learnink dev`: what happened to each message, and the acts on it.
//!
//! | module | has |
//! |---|---|
//! | [`history`] | what happened, in one file of the state folder |

pub mod history;
