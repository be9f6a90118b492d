//! The types and rules that handlers and both Lambdas share: the webhook and its encoding for the queue, the event,
//! the choice of its handlers, and their idempotency keys.
//!
//! Nothing here does I/O, reads a clock or knows AWS. Decisions are plain functions over plain data; the receiver,
//! the consumer and the handlers do the I/O.
//!
//! | module | holds |
//! |---|---|
//! | [`message`] | one webhook as it was signed, and its encoding for the queue |
//! | [`event`] | LearnInk's envelope and the payloads whose shape is public |
//! | [`router`] | which handlers an event goes to |
//! | [`error`] | how a handler says *again* or *never* |
//! | [`idempotency`] | idempotency keys: each names one piece of work |
//! | [`items`] | lists in a payload, item by item |
//! | [`group`] | requests that are made at the same time, as one call |
//! | [`json`] | JSON as other programs write it |
//! | [`newest`] | which of two events about the same thing is the newer one |
//! | [`personal`] | personal data that cannot be printed by accident |
//! | [`breaker`] | the circuit breaker of a handler's downstream |
//! | [`config`] | how configuration is read |
//! | `testing` | a consumer in memory, for tests of handlers (feature `testing`) |

pub mod breaker;
pub mod config;
pub mod error;
pub mod event;
pub mod group;
pub mod idempotency;
pub mod items;
pub mod json;
pub mod message;
pub mod newest;
pub mod personal;
pub mod router;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{FailureClass, FailureKind, HandlerError, HandlerResult, OrPermanent};
pub use event::{Envelope, Event, Payload};
pub use idempotency::IdempotencyKey;
pub use items::Permits;
pub use message::{Message, MessageId};
pub use personal::Personal;
pub use router::Router;
