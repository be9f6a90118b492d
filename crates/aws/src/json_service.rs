//! Calls to a service that speaks AWS's JSON protocol, without a client of the SDK.
//!
//! The SDK's client can call every operation of every service, and decides for each call anew how: it resolves the
//! endpoint, the credentials and the way to sign, and asks some thirty interceptors. For the receiver, which makes one
//! call for each webhook, that is most of its work. `docs/decisions/calls-without-the-sdk.md` has the figures.
//!
//! What is easy to get wrong stays the SDK's: its crates compute the signature and find the credentials.
//! Source: Smithy 2.0, "AWS JSON 1.0 protocol".

use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_async::time::SharedTimeSource;
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::Full;
use learnink_webhook::router::LONGEST_CALL;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::CallError;
use crate::connections::Connections;
use crate::error::by_code;

/// Which operation is called.
const TARGET: &str = "x-amz-target";

/// The error code of an answer; some services say it only in the body.
const ERROR_TYPE: &str = "x-amzn-errortype";

/// Who calls, for AWS's support.
const CALLER: HeaderValue =
    HeaderValue::from_static(concat!("learnink-webhooks/", env!("CARGO_PKG_VERSION")));

/// How a service is addressed.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// The service's id in the SDK, such as `SQS`: a part of the variable `AWS_ENDPOINT_URL_SQS`.
    pub service_id: &'static str,
    /// The service's name in signatures, such as `sqs`.
    pub signing_name: &'static str,
    /// The service's name in front of an operation's, such as `AmazonSQS`.
    pub target: &'static str,
    /// Such as `application/x-amz-json-1.0`.
    pub content_type: &'static str,
}

/// How often a call is tried, and how long.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// How often it is tried, at most. Only what may pass is tried again: no answer, a broken connection, throttling,
    /// and the service's own errors.
    pub attempts: u32,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// How long the call may take, with all attempts and pauses.
    pub call: Duration,
    /// The longest pause before another attempt. The pause is random, so that callers that failed together do not come
    /// back together.
    pub pause: Duration,
}

impl CallLimits {
    /// For callers that wait no longer than [`LONGEST_CALL`].
    pub const USUAL: Self = Self {
        attempts: 3,
        attempt: Duration::from_secs(3),
        call: LONGEST_CALL,
        pause: Duration::from_secs(1),
    };
}

/// A service, and the connections to it. `Debug` shows no credentials.
#[derive(Clone)]
pub struct JsonService {
    connections: Connections,
    protocol: Protocol,
    endpoint: String,
    /// The endpoint's host; empty if the endpoint is not a URL.
    host: String,
    region: String,
    credentials: Option<SharedCredentialsProvider>,
    clock: SharedTimeSource,
    limits: CallLimits,
}

impl JsonService {
    /// The service as `config` describes it: region, credentials, clock, and an endpoint if it is not AWS's own, which is
    /// `endpoint`. Nothing else of `config` is used. It reads the system's root certificates.
    pub fn new(config: &SdkConfig, protocol: Protocol, endpoint: &str, limits: CallLimits) -> Self {
        let key = ServiceConfigKey::builder().service_id(protocol.service_id);
        let key = key.env("AWS_ENDPOINT_URL").profile("endpoint_url").build().ok();
        let of_the_service = config.service_config().zip(key).and_then(|(known, key)| known.load_config(key));
        let other = of_the_service.or_else(|| config.endpoint_url().map(str::to_owned));
        let endpoint = other.unwrap_or_else(|| endpoint.to_owned());
        if endpoint.starts_with("https:") {
            Connections::prepare();
        }
        Self {
            connections: Connections::default(),
            protocol,
            host: endpoint.parse().ok().and_then(|uri| Connections::host(&uri)).unwrap_or_default(),
            endpoint,
            region: config.region().map(ToString::to_string).unwrap_or_default(),
            credentials: config.credentials_provider(),
            clock: config.time_source().unwrap_or_default(),
            limits,
        }
    }

    /// The same service with other limits.
    #[must_use]
    pub fn with_limits(self, limits: CallLimits) -> Self {
        Self { limits, ..self }
    }

    /// Calls an operation, such as `SendMessage`, and returns the body of its success.
    ///
    /// # Errors
    ///
    /// [`CallError`]. Except after [`CallError::NotSent`] and a code of AWS, it may have been carried out.
    pub async fn call(&self, operation: &str, input: &impl Serialize) -> Result<Vec<u8>, CallError> {
        let body = Bytes::from(serde_json::to_vec(input).map_err(|_| CallError::NotSent)?);
        let deadline = Instant::now() + self.limits.call;
        let mut left = self.limits.attempts;
        loop {
            left = left.saturating_sub(1);
            // One timer for both limits.
            let until = deadline.min(Instant::now() + self.limits.attempt);
            let answered = timeout_at(until, self.attempt(operation, body.clone())).await;
            match answered.unwrap_or(Err(CallError::TimedOut)) {
                Err(error) if left > 0 && error.may_pass() => {
                    let again_at = Instant::now() + self.limits.pause.mul_f64(fastrand::f64());
                    if again_at >= deadline {
                        return Err(error);
                    }
                    sleep_until(again_at).await;
                }
                answered => return answered,
            }
        }
    }

    async fn attempt(&self, operation: &str, body: Bytes) -> Result<Vec<u8>, CallError> {
        let request = self.signed(operation, body).await.ok_or(CallError::NotSent)?;
        let answer = self.connections.send(request).await.map_err(|error| CallError::from(&error))?;
        let status = answer.status;
        if status.is_success() {
            return answer.read(true).await.ok_or(CallError::Unconfirmed);
        }
        let headers = answer.headers.clone();
        // Another attempt may reach another server.
        let body = answer.read(!status.is_server_error()).await.unwrap_or_default();
        Err(by_code(status.as_u16(), &error_code(&headers, &body)))
    }

    /// The request with its signature; `None` without an endpoint or credentials that can be used.
    async fn signed(&self, operation: &str, body: Bytes) -> Option<Request<Full<Bytes>>> {
        if self.host.is_empty() {
            return None;
        }
        let target = format!("{}.{operation}", self.protocol.target);
        let identity = self.credentials.as_ref()?.provide_credentials().await.ok()?.into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.protocol.signing_name)
            .time(self.clock.now())
            .settings(SigningSettings::default())
            .build()
            .ok()?;
        let headers = [
            (HOST.as_str(), self.host.as_str()),
            (CONTENT_TYPE.as_str(), self.protocol.content_type),
            (TARGET, target.as_str()),
        ];
        let signable =
            SignableRequest::new("POST", &self.endpoint, headers.into_iter(), SignableBody::Bytes(&body));
        let (signature, _) = sign(signable.ok()?, &parameters.into()).ok()?.into_parts();
        let mut request = Request::post(&self.endpoint).header(USER_AGENT, CALLER);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for header in signature.into_parts().0 {
            let mut value = HeaderValue::from_str(header.value()).ok()?;
            value.set_sensitive(header.sensitive());
            request = request.header(header.name(), value);
        }
        request.body(Full::new(body)).ok()
    }
}

impl fmt::Debug for JsonService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonService")
            .field("protocol", &self.protocol)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The code in an answer that is not a success. It may have a namespace before `#` and an address after `:`.
fn error_code(headers: &HeaderMap, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "__type", alias = "code")]
        code: String,
    }
    let in_the_head = headers.get(ERROR_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let said = in_the_head.or_else(|| serde_json::from_slice::<Said>(body).ok().map(|said| said.code));
    let said = said.unwrap_or_default();
    let code = said.split(':').next().unwrap_or_default();
    code.rsplit('#').next().unwrap_or_default().to_owned()
}

/// The domain of AWS's endpoints in a region. Other partitions are reached by `AWS_ENDPOINT_URL`.
/// Source: AWS General Reference, "AWS service endpoints"; botocore, `partitions.json`.
pub fn domain(region: &str) -> &'static str {
    match region.split_once('-') {
        Some(("cn", _)) => "amazonaws.com.cn",
        Some(("eusc", _)) => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_config::{BehaviorVersion, Region};
    use aws_credential_types::Credentials;
    use aws_smithy_async::time::StaticTimeSource;
    use http::HeaderName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const SERVICE: Protocol = Protocol {
        service_id: "Some Service",
        signing_name: "some",
        target: "AWSSome",
        content_type: "application/x-amz-json-1.1",
    };

    /// The start of 2026, since the epoch.
    const TIME: Duration = Duration::from_hours(490_896);

    fn credentials() -> Credentials {
        Credentials::new("AKID", "key", Some("token".to_owned()), None, "tests")
    }

    fn service(endpoint: &str) -> JsonService {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials()))
            .time_source(StaticTimeSource::new(UNIX_EPOCH + TIME))
            .build();
        JsonService::new(&config, SERVICE, endpoint, CallLimits::USUAL)
    }

    /// The head and the body of a request, as they arrive.
    async fn received(stream: &mut TcpStream) -> (String, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            stream.read_buf(&mut bytes).await.unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = header(head, "content-length").unwrap().parse::<usize>().unwrap();
            if body.len() == length {
                return (head.to_owned(), body.as_bytes().to_vec());
            }
        }
    }

    fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    #[tokio::test]
    async fn what_arrives_is_what_was_signed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = service(&endpoint);
        let input = serde_json::json!({ "Name": "a/b \u{e9}" });
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = received(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            request
        };
        let (answer, (head, body)) = tokio::join!(service.call("Get", &input), server);
        assert_eq!((answer, serde_json::from_slice(&body).unwrap()), (Ok(b"{}".to_vec()), input));
        assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "x-amz-target"), Some("AWSSome.Get"));
        assert_eq!(header(&head, "x-amz-security-token"), Some("token"));
        assert_eq!(header(&head, "x-amz-date"), Some("20260101T000000Z"));

        // As a server checks it: the same signature, from what it got.
        let authorization = header(&head, "authorization").unwrap();
        let names = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
        for name in ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
            assert!(names.split(';').any(|signed| signed == name), "{name} is not signed: {names}");
        }
        let added = ["x-amz-date", "x-amz-security-token"];
        let signed = names.split(';').filter(|name| !added.contains(name));
        let signed = signed.map(|name| (name, header(&head, name).unwrap()));
        let identity = credentials().into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name("some")
            .time(UNIX_EPOCH + TIME)
            .settings(SigningSettings::default())
            .build()
            .unwrap();
        let request = SignableRequest::new("POST", &endpoint, signed, SignableBody::Bytes(&body)).unwrap();
        let signature = sign(request, &parameters.into()).unwrap().into_parts().1;
        assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
        assert!(authorization.contains("/20260101/eu-west-1/some/aws4_request"), "{authorization}");
    }

    #[tokio::test]
    async fn a_call_that_cannot_be_made_is_not_sent() {
        for endpoint in ["", "localhost", "ftp://localhost", "https://"] {
            let error = service(endpoint).call("Get", &()).await.unwrap_err();
            assert_eq!(error, CallError::NotSent, "{endpoint}");
        }
        let mut without = service("http://127.0.0.1:1");
        without.credentials = None;
        assert_eq!(without.call("Get", &()).await, Err(CallError::NotSent));
    }

    #[test]
    fn the_endpoint_is_in_the_regions_partition() {
        assert_eq!(domain("eu-west-1"), "amazonaws.com");
        assert_eq!(domain("us-gov-west-1"), "amazonaws.com");
        assert_eq!(domain("cn-north-1"), "amazonaws.com.cn");
        assert_eq!(domain("eusc-de-east-1"), "amazonaws.eu");
    }

    #[test]
    fn credentials_are_not_printed() {
        let printed = format!("{:?}", service("https://some.eu-west-1.amazonaws.com"));
        assert!(printed.contains("some.eu-west-1") && !printed.contains("AKID"), "{printed}");
    }

    #[test]
    fn an_error_code_is_found_wherever_a_service_says_it() {
        let code = |header: Option<&'static str>, body: &str| {
            let value =
                header.map(|value| (HeaderName::from_static(ERROR_TYPE), HeaderValue::from_static(value)));
            error_code(&HeaderMap::from_iter(value), body.as_bytes())
        };
        for (header, body, expected) in [
            (None, r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"m"}"#, "QueueDoesNotExist"),
            (None, r#"{"code":"RequestThrottled"}"#, "RequestThrottled"),
            (Some("AccessDenied:http://internal.amazon.com/coral/"), "{}", "AccessDenied"),
            (Some("AccessDenied"), r#"{"__type":"Other"}"#, "AccessDenied"),
            (None, "<html>+254705408079</html>", ""),
            (None, r#"{"__type":7}"#, ""),
            (None, "", ""),
        ] {
            assert_eq!(code(header, body), expected, "{header:?} {body}");
        }
    }
}
