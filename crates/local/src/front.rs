//! API Gateway on a laptop: turns an HTTP request into the event that an HTTP API sends to Lambda.
//!
//! Shape: payload format version 2.0. Source: API Gateway developer guide, "Create AWS Lambda proxy integrations
//! for HTTP APIs". Like the gateway, it joins repeated headers with a comma, and passes bodies that are not text
//! as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The gateway answers 413 to a larger body by itself: 10 MB.
/// Source: API Gateway developer guide, "Quotas for configuring and running an HTTP API".
pub const LARGEST_BODY_BYTES: usize = 10 * 1024 * 1024;

/// The request as the gateway passes it to Lambda.
pub fn http_api_request(parts: &Parts, body: &[u8], request_id: &str, now: Timestamp) -> Value {
    let headers: Map<String, Value> = parts
        .headers
        .keys()
        .map(|name| {
            let values = parts.headers.get_all(name).iter();
            let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (name.as_str().to_owned(), values.join(",").into())
        })
        .collect();
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let text = std::str::from_utf8(body).ok().filter(|_| is_text(content_type));
    let path = parts.uri.path();
    let host = headers.get("host").cloned().unwrap_or_default();
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": parts.uri.query().unwrap_or_default(),
        "headers": headers,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "local",
            "domainName": host,
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": headers.get("user-agent").cloned().unwrap_or_default(),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": now.as_millisecond(),
        },
        "body": text.map_or_else(|| BASE64.encode(body), str::to_owned),
        "isBase64Encoded": text.is_none(),
    })
}

/// Whether the gateway passes a body of this type as text.
fn is_text(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.starts_with("text/")
        || matches!(media_type, "application/json" | "application/javascript" | "application/xml")
}

#[cfg(test)]
mod tests {
    use lambda_http::{Body, Request};

    use super::*;

    fn request(build: impl Fn(http::request::Builder) -> http::request::Builder, body: &[u8]) -> Request {
        let builder = build(http::Request::post("/webhooks/learnink?a=b").header("host", "127.0.0.1:9000"));
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let event = http_api_request(&parts, body, "1", Timestamp::UNIX_EPOCH);
        lambda_http::request::from_str(&event.to_string()).unwrap()
    }

    #[test]
    fn lambda_http_reads_it_as_the_request_that_was_sent() {
        let request = request(|builder| builder.header("Svix-Id", "msg_1"), b"{\"a\": 1}");
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri().path(), "/webhooks/learnink");
        assert_eq!(request.headers()["svix-id"], "msg_1");
        assert_eq!(*request.body(), Body::Text("{\"a\": 1}".to_owned()));
    }

    #[test]
    fn a_header_that_comes_twice_is_joined() {
        let request = request(|builder| builder.header("svix-id", "a").header("svix-id", "b"), b"");
        assert_eq!(request.headers()["svix-id"], "a,b");
    }

    #[test]
    fn what_is_not_text_travels_as_base64_and_comes_out_the_same() {
        for (content_type, body) in
            [("application/octet-stream", &b"{}"[..]), ("application/json", b"\xFF\0")]
        {
            let request = request(|builder| builder.header("content-type", content_type), body);
            assert_eq!(*request.body(), Body::Binary(body.to_vec()));
        }
    }
}
