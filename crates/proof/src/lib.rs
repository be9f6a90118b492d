//! The ledger's protocol, in every state that it can reach.
//!
//! The model is a small world: one message, two handlers of which one has a list of two items, a ledger, a queue with its
//! dead-letter queue, and up to three consumers at a time. Anything that can happen in it does: deliveries at any time and
//! several of one message, crashes between any two steps, requests to the ledger that are lost, carried out with their
//! answer lost, or carried out long after their caller has given up, clocks that differ, leases and entries that end, an
//! operator's replay window, run and redrive. What a consumer does in a step is decided by the functions that are deployed:
//! `judge`, `judge_settlement`, `tasks`, `tasks_of_run`, `conclude`, and the methods of `Ending`, `ReplayWindow` and `Task`.
//!
//! Each scope looks at some of this. In every state of every scope:
//!
//! - no handler and no item runs that is recorded as done;
//! - two consumers are never at work on a message at the same time;
//! - no mark in the ledger is lost;
//! - no message leaves the queue that is neither done nor dead-lettered;
//! - of a message that SQS itself has moved to the dead-letter queue, the ledger says why;
//! - everything can still end, as soon as nothing fails any more.
//!
//! The random schedules of `crates/consumer/tests/model` run the engine itself, in larger worlds, but only some of the
//! schedules. `PROOF=large cargo test --release -p learnink-proof -- --nocapture` looks at the larger scopes. The model is in
//! `tests/proof`; `docs/ledger.md` explains the protocol.
