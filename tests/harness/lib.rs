//! The shared code of the tests across crates.
//!
//! | module | holds |
//! |---|---|
//! | [`binaries`] | the workspace's programs, built and up to date |
//! | [`engine`] | an SQS and a DynamoDB: the embedded ones, or ministack's |
//! | [`fake_aws`] | an SQS and a Secrets Manager that fail on purpose |
//! | [`fake_firehose`] | a Firehose that fails on purpose |
//! | [`faulty`] | a proxy in front of an engine that fails some calls |
//! | [`runtime_api`] | the side of Lambda that a function talks to |
//! | [`signing`] | webhooks as LearnInk signs them |

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a test that cannot be set up has failed, and says why"
)]

pub mod binaries;
pub mod engine;
pub mod fake_aws;
pub mod fake_firehose;
pub mod faulty;
pub mod runtime_api;
pub mod signing;

use std::path::PathBuf;

use axum::Router;
use tokio::net::TcpListener;

/// The checkout.
pub fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the workspace").to_owned()
}

/// Serves on a free port of this machine until the test ends. The URL, without a path and a `/`.
pub async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it listens"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A file of the checkout as text.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}
