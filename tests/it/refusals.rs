//! Requests that are not proven to come from LearnInk, and the answer to each.

use learnink_tests::signing::{self, OTHER_SECRET, SECRET, now_s};
use reqwest::{Method, StatusCode};

use crate::laptop::{Laptop, started};

const PATH: &str = "/webhooks/learnink";

pub(crate) struct Refusal {
    pub(crate) name: &'static str,
    pub(crate) status: StatusCode,
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Refusal {
    pub(crate) async fn send(&self, laptop: &Laptop) -> reqwest::Response {
        let mut request = laptop.request(self.method.clone(), self.path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(self.body.clone()).send().await.unwrap()
    }
}

/// A genuine request, to be damaged.
fn genuine(name: &'static str, status: StatusCode) -> Refusal {
    let body = started("u", "c", "2026-01-01T00:00:00Z");
    let headers = signing::headers(SECRET, "msg_1", now_s(), body.as_bytes()).to_vec();
    Refusal { name, status, method: Method::POST, path: PATH, headers, body }
}

pub(crate) fn all() -> Vec<Refusal> {
    let unauthorized = |name| genuine(name, StatusCode::UNAUTHORIZED);
    let signed_at = |name, age_s: i64| {
        let body = started("u", "c", "2026-01-01T00:00:00Z");
        let headers = signing::headers(SECRET, "msg_1", now_s() - age_s, body.as_bytes()).to_vec();
        Refusal { headers, body, ..unauthorized(name) }
    };
    let without = |name, header: &str| {
        let mut refusal = unauthorized(name);
        refusal.headers.retain(|(known, _)| *known != header);
        refusal
    };
    vec![
        Refusal { body: started("v", "c", "2026-01-01T00:00:00Z"), ..unauthorized("a tampered body") },
        signed_at("a stale timestamp", 600),
        signed_at("a future timestamp", -600),
        without("no id", "svix-id"),
        without("no timestamp", "svix-timestamp"),
        without("no signature", "svix-signature"),
        Refusal { headers: Vec::new(), ..unauthorized("no signature header at all") },
        Refusal {
            headers: signing::headers(OTHER_SECRET, "msg_1", now_s(), b"{}").to_vec(),
            body: "{}".to_owned(),
            ..unauthorized("the other environment's secret")
        },
        Refusal { body: String::new(), headers: Vec::new(), ..unauthorized("nothing at all") },
        Refusal { body: "x".repeat(2_000_000), ..unauthorized("two megabytes that are not signed") },
        Refusal { method: Method::GET, ..genuine("another method", StatusCode::METHOD_NOT_ALLOWED) },
        Refusal { path: "/", ..genuine("another path", StatusCode::NOT_FOUND) },
        Refusal {
            body: "x".repeat(7_000_000),
            ..genuine("more than Lambda takes", StatusCode::PAYLOAD_TOO_LARGE)
        },
        Refusal {
            body: "x".repeat(10 * 1024 * 1024 + 1),
            ..genuine("more than the gateway takes", StatusCode::PAYLOAD_TOO_LARGE)
        },
    ]
}
