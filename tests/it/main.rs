//! The promises that need several crates.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed, and says why"
)]

/// Runs each check against the embedded engine and against ministack.
macro_rules! on_both_engines {
    ($($check:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $check() {
                super::$check(learnink_tests::engine::Engine::embedded().await).await;
            })+
        }
        mod ministack {
            $(#[tokio::test]
            async fn $check() {
                super::$check(learnink_tests::engine::Engine::ministack().await).await;
            })+
        }
    };
}

mod archive;
mod bus;
mod catalog;
mod command;
mod consumer;
mod deploy_page;
mod deployed;
mod deployed_letters;
mod doctor;
mod faults;
mod forget;
mod forward;
mod killed;
mod lambda;
mod laptop;
mod last_delivery;
mod learners;
mod ledger_contract;
mod ledger_faults;
mod letters;
mod lists;
mod load;
mod odd_events;
mod on_call_page;
mod partiql;
mod pipeline;
mod privacy;
mod project;
mod push;
mod queue_contract;
mod recorded;
mod records;
mod refusals;
mod release;
mod replay_run;
mod retention;
mod rotation;
mod secret;
mod shuffled;
mod signers;
mod simulator;
mod status;
mod tail;
mod template;
mod update;
mod verify;
mod whole_stack;
