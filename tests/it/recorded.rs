//! Calls of AWS on their way to ministack, by the actions of IAM that they need.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use learnink_tests::engine::ministack_endpoint;
use learnink_tests::serve;

/// What was called so far.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    actions: Arc<Mutex<BTreeSet<String>>>,
    http: reqwest::Client,
}

impl Recorded {
    /// Starts a proxy of ministack that records, and returns where it listens. It needs a runtime of several threads, or
    /// one that is not blocked.
    pub(crate) async fn start() -> (Self, String) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let recorded = Self { actions: Arc::default(), http };
        let endpoint = proxy(recorded.clone()).await;
        (recorded, endpoint)
    }

    /// The actions of IAM that the calls so far need.
    pub(crate) fn actions(&self) -> BTreeSet<String> {
        self.actions.lock().unwrap().clone()
    }
}

async fn proxy(recorded: Recorded) -> String {
    serve(axum::Router::new().fallback(pass_on).with_state(recorded)).await
}

async fn pass_on(State(recorded): State<Recorded>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let actions = actions(&parts.method, &parts.uri, &parts.headers, &String::from_utf8_lossy(&body));
    recorded.actions.lock().unwrap().extend(actions);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove("host");
    let request = recorded
        .http
        .request(parts.method, format!("{}{path}", ministack_endpoint()))
        .headers(headers)
        .body(body);
    let answer = request.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    response.headers_mut().unwrap().extend(answer.headers().clone());
    response.headers_mut().unwrap().remove("transfer-encoding");
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}

/// The actions that a call needs. Its service is part of what was signed.
fn actions(method: &Method, uri: &Uri, headers: &HeaderMap, body: &str) -> Vec<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let service = header("authorization").split('/').nth(3).unwrap_or_default();
    let target = header("x-amz-target").rsplit('.').next().unwrap_or_default();
    let query = body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default();
    if service == "lambda" {
        return vec![format!("lambda:{}", lambda_action(uri.path()))];
    }
    if target == "BatchExecuteStatement" {
        return ["INSERT", "UPDATE"]
            .into_iter()
            .filter(|verb| body.contains(verb))
            .map(partiql_action)
            .collect();
    }
    if service == "s3" {
        return s3_actions(method, uri.query().unwrap_or_default(), headers.contains_key("if-match"))
            .iter()
            .map(|name| format!("s3:{name}"))
            .collect();
    }
    let name = match (service, target, query) {
        // An action for a batch of messages is that for one.
        ("sqs", target, _) => target.strip_suffix("Batch").unwrap_or(target),
        (_, "", query) => query,
        (_, target, _) => target,
    };
    // The page's event goes to the stack's own URL, which is not signed for AWS.
    if service.is_empty() {
        return Vec::new();
    }
    // The IAM prefix of CloudWatch and others is not the name under which they are signed.
    let prefix = if service == "monitoring" { "cloudwatch" } else { service };
    vec![format!("{prefix}:{name}")]
}

/// The actions of a call of S3, by its query.
/// Source: Amazon S3 user guide, "Required permissions for Amazon S3 API operations".
fn s3_actions(method: &Method, query: &str, is_conditional: bool) -> &'static [&'static str] {
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match method.as_str() {
        "GET" if has("list-type") => &["ListBucket"],
        "GET" if has("versions") => &["ListBucketVersions"],
        "GET" if has("retention") => &["GetObjectRetention"],
        "GET" if has("versionId") => &["GetObjectVersion"],
        "GET" => &["GetObject"],
        // Source: Amazon S3 user guide, "How to prevent object overwrites with conditional writes".
        "PUT" if is_conditional => &["GetObject", "PutObject"],
        "PUT" => &["PutObject"],
        "DELETE" if has("versionId") => &["DeleteObjectVersion"],
        other => panic!("a call of S3 that no role has: {other}"),
    }
}

fn partiql_action(verb: &str) -> String {
    let verb = if verb == "INSERT" { "Insert" } else { "Update" };
    format!("dynamodb:PartiQL{verb}")
}

/// The action of a call of Lambda, whose API has paths instead of names.
fn lambda_action(path: &str) -> &'static str {
    let path = path.trim_end_matches('/');
    match path.rsplit('/').next().unwrap_or_default() {
        "configuration" => "GetFunctionConfiguration",
        "concurrency" => "GetFunctionConcurrency",
        "account-settings" => "GetAccountSettings",
        "event-source-mappings" => "ListEventSourceMappings",
        _ if path.contains("/aliases/") => "GetAlias",
        other => panic!("a call of Lambda that the on-call role does not have: {other}"),
    }
}
