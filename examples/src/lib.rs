//! A small handler of each kind, to copy into `crates/handlers`: none of them runs from here.
//!
//! | module | does | idempotent, because |
//! |---|---|---|
//! | [`call_with_key`] | calls another system once | it passes the key on |
//! | [`list`] | does something for each item of a list | each item has its own key |
//! | [`newest_wins`] | keeps the latest state of something | an older event does not overwrite a newer one |
//! | [`fan_out`] | puts the event on a queue of another team | that team gets the key |

pub mod call_with_key;
pub mod fan_out;
pub mod list;
pub mod newest_wins;

#[cfg(test)]
mod endpoint {
    //! An HTTP endpoint that answers with one status and notes each request.

    use std::sync::{Arc, Mutex};

    use axum::http::{HeaderMap, StatusCode};
    use tokio::net::TcpListener;

    /// The `idempotency-key` and the body of each request.
    pub(crate) type Requests = Arc<Mutex<Vec<(String, String)>>>;

    pub(crate) async fn start(status: u16) -> (String, Requests) {
        learnink_aws::install_tls_provider();
        let requests = Requests::default();
        let noted = requests.clone();
        let answer = move |headers: HeaderMap, body: String| async move {
            let key = headers["idempotency-key"].to_str().unwrap().to_owned();
            noted.lock().unwrap().push((key, body));
            StatusCode::from_u16(status).unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        (url, requests)
    }
}
