//! LearnInk's side of the webhooks, for the laptop.
//!
//! [`Simulator`] has the rules: endpoints of two environments, the retry schedule, manual attempts, rotation, faults.
//! It does no I/O, and time and randomness are arguments. [`Driver`] posts what is due; a [`Handle`] is the way to the
//! simulator meanwhile. The words are those of LearnInk's dashboard: an attempt is one delivery.
//!
//! - [`schedule`]: when a message is attempted again
//! - [`secret`]: signing secrets and their rotation
//! - [`scenes`]: events as they come in a situation that customers meet

pub mod driver;
pub mod endpoint;
pub mod event;
pub mod fault;
pub mod message;
pub mod scenes;
pub mod schedule;
pub mod secret;
mod simulator;

pub use driver::{Driver, Handle};
pub use endpoint::{Endpoint, EndpointId, EndpointState, EndpointUrl, Environment};
pub use event::{Event, Learner, fresh_message_id, freshened};
pub use fault::{Extent, Fault, FaultRule};
pub use message::{Attempt, Destination, Message, Outcome, Schedule, Status, Trigger};
pub use schedule::Speed;
pub use secret::{Fingerprint, Secret, Secrets};
pub use simulator::{
    AttemptKey, AttemptRequest, Changes, KEPT_FOR, MOST_BYTES, MOST_MESSAGES, MessageFilter, Page,
    RECOVERABLE_FOR, RequestError, Settings, Simulator,
};
