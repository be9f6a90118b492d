//! The ledger's protocol, in every state that it can reach: see the crate's documentation.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a model that cannot go on has failed, and says why"
)]

mod explore;
mod rules;
mod scopes;
mod state;
mod steps;
mod told;
