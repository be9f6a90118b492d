//! The customer's push endpoint: it counts what the push handler posts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use serde::Deserialize;
use tokio::net::TcpListener;

/// An endpoint that answers 200 to whatever names a learner.
pub(super) struct Endpoint {
    counts: Arc<Mutex<BTreeMap<String, u32>>>,
}

/// Of a notification, the learner alone.
#[derive(Deserialize)]
struct Notification {
    user_id: String,
}

impl Endpoint {
    /// Listens until the program ends.
    pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let counts = Arc::<Mutex<BTreeMap<String, u32>>>::default();
        let counted = counts.clone();
        let router = Router::new().fallback(async move |body: Bytes| {
            let Ok(Notification { user_id }) = serde_json::from_slice(&body) else {
                return StatusCode::BAD_REQUEST;
            };
            *counted.lock().unwrap_or_else(PoisonError::into_inner).entry(user_id).or_default() += 1;
            StatusCode::OK
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { counts })
    }

    /// How often each learner was notified.
    pub(super) fn counts(&self) -> BTreeMap<String, u32> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
