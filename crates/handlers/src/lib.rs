//! **Your code**: what happens for each event.
//!
//! [`router`] is the list of what runs: the rooms of `crates/connectors`, and yours. A room of yours is one file here:
//! its payload, its handler, its test, and a function `router(&Env)`. `docs/add-an-event.md` shows how to add one.
//! Nothing else of the product has to be changed, so that the next version of it is a merge without conflicts.

mod enrolments;

use learnink_aws::Env;
use learnink_connectors::{archive, bus, forward, progress, push, unknown};
use learnink_webhook::Router;
use learnink_webhook::config::ConfigError;

/// The handlers that run, each in a room that says which events it takes.
///
/// # Errors
///
/// [`ConfigError`] of the first room that is not set up correctly, with the variable and the value that it takes.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    Ok(Router::new()
        .merge(progress::router(env)?)
        .merge(push::router(env)?)
        .merge(archive::router(env)?)
        .merge(bus::router(env)?)
        .merge(forward::router(env)?)
        .merge(unknown::router(env)?)
        // Yours.
        .merge(enrolments::router(env)?))
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/add-an-event.md")]
struct AddAnEvent;

#[cfg(test)]
mod tests {
    use super::*;

    /// What `cargo learnink replay` and the product's tests rely on: a room without its variables is switched off.
    #[test]
    fn the_rooms_need_no_variables_but_those_of_the_tables() {
        let env =
            Env::of([("LEARNINK_LEARNERS_TABLE", "learners"), ("LEARNINK_UNKNOWN_EVENTS_TABLE", "unknown")]);
        let aws = Env::of([("AWS_REGION", "eu-west-1")]);
        let env = env.with_tables(aws.tables().unwrap().clone());
        let names = router(&env).unwrap().handler_names();
        // And yours that need none.
        assert!(names.starts_with(&["progress", "unknown"]), "{names:?}");
    }
}
