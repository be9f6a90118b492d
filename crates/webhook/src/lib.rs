//! The words that every other crate shares: what a webhook is, how it travels through the queue,
//! what an event says, which handlers it goes to, and the rules by which work is done once.
//!
//! Nothing here does I/O, reads a clock or knows AWS. Decisions are plain functions over plain
//! data; the receiver, the consumer and the handlers bring the network to them.
//!
//! | module | holds |
//! |---|---|
//! | [`message`] | one webhook as it was signed, and its encoding for the queue |
//! | [`event`] | LearnInk's envelope and the payloads whose shape is public |
//! | [`router`] | which handlers an event goes to |
//! | [`error`] | how a handler says *again* or *never* |
//! | [`personal`] | personal data that cannot be printed by accident |
//! | [`ledger`] | who may run which handler for which message |
//! | [`backoff`] | how long a failed delivery waits |
//! | [`config`] | how configuration is read |

pub mod backoff;
pub mod config;
pub mod error;
pub mod event;
pub mod ledger;
pub mod message;
pub mod personal;
pub mod router;

pub use error::{FailureClass, HandlerError, HandlerResult, OrPermanent};
pub use event::{Envelope, Event, Payload};
pub use message::{Message, MessageId};
pub use personal::Personal;
pub use router::Router;
