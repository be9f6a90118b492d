//! One signed request to a service of AWS. It is for the few calls of services whose SDK crates would be too much to
//! compile for them.

use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;
use jiff::{SignedDuration, Timestamp};
use learnink_aws::{CallError, domain};
use learnink_webhook::error::service_code;
use reqwest::header::{DATE, HeaderMap};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{AwsClock, region, system_time};
use crate::client::client;
use crate::{now, variable};

/// One request may take this long.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How often a request is made that AWS throttles, and the wait in between.
const MOST_ATTEMPTS: u32 = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(400);

/// AWS accepts no request that was signed by a clock that is further off.
/// Source: AWS General Reference, "Troubleshooting Signature Version 4".
const LARGEST_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_mins(5);

/// A service of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its name in endpoints and signatures.
    name: &'static str,
    /// The prefix of its actions in policies.
    prefix: &'static str,
    /// The variable with its endpoint, if that is not AWS's.
    /// Source: AWS SDKs and Tools reference guide, "Service-specific endpoints".
    endpoint: &'static str,
    /// The version of its JSON protocol, if it has one.
    json: &'static str,
}

/// Knows stacks. Query protocol.
pub(crate) const CLOUDFORMATION: Service = Service {
    name: "cloudformation",
    prefix: "cloudformation",
    endpoint: "AWS_ENDPOINT_URL_CLOUDFORMATION",
    json: "",
};

/// Knows alarms and metrics. JSON 1.0.
pub(crate) const CLOUDWATCH: Service = Service {
    name: "monitoring",
    prefix: "cloudwatch",
    endpoint: "AWS_ENDPOINT_URL_CLOUDWATCH",
    json: "1.0",
};

/// Knows functions and event source mappings. REST JSON.
pub(crate) const LAMBDA: Service =
    Service { name: "lambda", prefix: "lambda", endpoint: "AWS_ENDPOINT_URL_LAMBDA", json: "" };

/// Keeps log lines. JSON 1.1.
pub(crate) const LOGS: Service =
    Service { name: "logs", prefix: "logs", endpoint: "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", json: "1.1" };

/// Knows subscriptions. Query protocol.
pub(crate) const SNS: Service =
    Service { name: "sns", prefix: "sns", endpoint: "AWS_ENDPOINT_URL_SNS", json: "" };

/// Keeps objects. REST XML.
pub(crate) const S3: Service =
    Service { name: "s3", prefix: "s3", endpoint: "AWS_ENDPOINT_URL_S3", json: "" };

/// A call failed. The text of AWS is left out: it can quote a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The credentials lack a right.
    #[error("the credentials may not call {action}")]
    Denied {
        /// The right, such as `lambda:GetAlias`.
        action: String,
    },
    /// A session is over.
    #[error("the credentials have expired ({code}); log in again, for example with `aws sso login`")]
    Expired { code: String },
    /// No such access key, or another secret key.
    #[error("AWS does not accept the credentials ({code}); check the access key or the profile")]
    NotAccepted { code: String },
    /// Requests are signed with the time.
    #[error(
        "AWS does not accept requests that are signed by this machine's clock, which is {} {} AWS's; set the clock",
        minutes(*.ahead),
        side(*.ahead)
    )]
    Clock {
        /// How far AWS's clock is ahead of this machine's.
        ahead: SignedDuration,
    },
    /// What the request names does not exist.
    #[error("AWS does not know it ({code}); check the name, the account and the region")]
    NotFound { code: String },
    /// Too many calls, even after some waits.
    #[error("AWS throttled the call ({code}); try again")]
    Throttled { code: String },
    /// Another error.
    #[error("AWS answered {status} ({code})")]
    Failed { status: u16, code: String },
    /// The answer is not AWS's.
    #[error("AWS's answer cannot be read")]
    Unreadable,
    /// No answer within the time limit.
    #[error("{host} did not answer in time")]
    TimedOut { host: String },
    /// No connection, or a broken one.
    #[error("cannot reach {host}; check the region, the network and the proxy")]
    Unreachable {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    /// The call of an SDK failed without an answer.
    #[error(transparent)]
    Unanswered(CallError),
    /// The environment and the profile have no credentials.
    #[error("no credentials")]
    NoCredentials(#[source] CredentialsError),
}

fn minutes(duration: SignedDuration) -> String {
    format!("{} min", duration.abs().as_mins())
}

fn side(ahead: SignedDuration) -> &'static str {
    if ahead.is_negative() { "ahead of" } else { "behind" }
}

impl RequestError {
    /// The error of an SDK's call, with the name of the right that it needs.
    pub(crate) fn of_sdk(action: &str, error: CallError) -> Self {
        match error {
            CallError::Throttled { code } => Self::Throttled { code },
            CallError::NotFound { code } => Self::NotFound { code },
            CallError::Denied { code } => refused(action, 403, &code, ""),
            CallError::Failed { status, code } => refused(action, status, &code, ""),
            CallError::Unconfirmed => Self::Unreadable,
            error @ (CallError::TimedOut | CallError::NotSent | CallError::Unreachable) => {
                Self::Unanswered(error)
            }
        }
    }
}

/// A service in one region.
#[derive(Debug)]
pub(crate) struct Client {
    service: Service,
    aws: SdkConfig,
    endpoint: reqwest::Url,
    http: reqwest::Client,
    clock: AwsClock,
}

/// A request, by the service's protocol.
#[derive(Debug)]
struct Outgoing<'a> {
    /// Such as `DescribeStacks`.
    action: &'a str,
    method: &'static str,
    url: reqwest::Url,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
    /// When it came.
    at: Timestamp,
}

impl Client {
    /// A client that sets `clock` with each answer.
    pub(crate) fn new(service: Service, aws: &SdkConfig, clock: &AwsClock) -> anyhow::Result<Self> {
        let region = region(aws);
        let endpoint = [service.endpoint, "AWS_ENDPOINT_URL"].into_iter().find_map(variable);
        let endpoint =
            endpoint.unwrap_or_else(|| format!("https://{}.{region}.{}", service.name, domain(region)));
        let problem = || format!("the endpoint of {} is not a URL", service.name);
        let endpoint: reqwest::Url = endpoint.trim().parse().with_context(problem)?;
        anyhow::ensure!(!endpoint.cannot_be_a_base(), problem());
        let http = client(&endpoint, TIME_LIMIT)?;
        Ok(Self { service, aws: aws.clone(), endpoint, http, clock: clock.clone() })
    }

    /// A call by the query protocol: a form, answered in XML.
    pub(crate) async fn query<T: DeserializeOwned>(
        &self,
        action: &str,
        version: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, RequestError> {
        let mut form = self.endpoint.clone();
        form.query_pairs_mut().clear().extend_pairs([("Action", action), ("Version", version)]);
        form.query_pairs_mut().extend_pairs(parameters);
        let answer = self.call(Outgoing {
            action,
            method: "POST",
            url: self.endpoint.clone(),
            headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
            body: form.query().unwrap_or_default().to_owned(),
        });
        quick_xml::de::from_str(&answer.await?).map_err(|_| RequestError::Unreadable)
    }

    /// A call by JSON: the operation is in a header.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        action: &str,
        target: &str,
        body: &Value,
    ) -> Result<T, RequestError> {
        let answer = self.call(Outgoing {
            action,
            method: "POST",
            url: self.endpoint.clone(),
            headers: vec![
                ("content-type", format!("application/x-amz-json-{}", self.service.json)),
                ("x-amz-target", format!("{target}.{action}")),
            ],
            body: body.to_string(),
        });
        serde_json::from_str(&answer.await?).map_err(|_| RequestError::Unreadable)
    }

    /// A call by REST and JSON that reads.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        action: &str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, RequestError> {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer =
            self.call(Outgoing { action, method: "GET", url, headers: Vec::new(), body: String::new() });
        serde_json::from_str(&answer.await?).map_err(|_| RequestError::Unreadable)
    }

    /// A call by REST, answered in XML or not at all. `path` is encoded as AWS encodes it.
    pub(crate) async fn rest(
        &self,
        action: &str,
        method: &'static str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<String, RequestError> {
        let mut url = self.endpoint.clone();
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(query);
        self.call(Outgoing { action, method, url, headers: Vec::new(), body: String::new() }).await
    }

    /// The body of the answer. A call that AWS throttles is repeated.
    async fn call(&self, request: Outgoing<'_>) -> Result<String, RequestError> {
        let action = format!("{}:{}", self.service.prefix, request.action);
        let mut attempt = 1;
        loop {
            match judged(&action, self.send(&request).await?) {
                Err(RequestError::Throttled { .. }) if attempt < MOST_ATTEMPTS => {
                    tokio::time::sleep(BETWEEN_ATTEMPTS * attempt).await;
                    attempt += 1;
                }
                judged => return judged,
            }
        }
    }

    async fn send(&self, request: &Outgoing<'_>) -> Result<Answer, RequestError> {
        let host = request.url.host_str().unwrap_or_default().to_owned();
        let failed = |error: reqwest::Error| {
            let (host, source) = (host.clone(), error.without_url());
            if source.is_timeout() {
                RequestError::TimedOut { host }
            } else {
                RequestError::Unreachable { host, source }
            }
        };
        let signed = self.signed(request).await?;
        let answer = self.http.execute(signed).await.map_err(&failed)?;
        let (status, headers, at) = (answer.status().as_u16(), answer.headers().clone(), now());
        self.clock.set(date(&headers), at);
        Ok(Answer { status, headers, body: answer.text().await.map_err(failed)?, at })
    }

    async fn signed(&self, request: &Outgoing<'_>) -> Result<reqwest::Request, RequestError> {
        let provider = self.aws.credentials_provider();
        let provider =
            provider.ok_or_else(|| RequestError::NoCredentials(CredentialsError::not_loaded_no_source()))?;
        let credentials = provider.provide_credentials().await.map_err(RequestError::NoCredentials)?;
        signed(request, self.service, region(&self.aws), &credentials.into(), now())
            .map_err(|error| RequestError::NoCredentials(CredentialsError::unhandled(error)))
    }
}

/// The request with its signature.
fn signed(
    request: &Outgoing<'_>,
    service: Service,
    region: &str,
    identity: &Identity,
    at: Timestamp,
) -> anyhow::Result<reqwest::Request> {
    let params = SigningParams::builder()
        .identity(identity)
        .region(region)
        .name(service.name)
        .time(system_time(at))
        .settings(settings(service))
        .build()?
        .into();
    let headers = request.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let signable = SignableRequest::new(
        request.method,
        request.url.as_str(),
        headers,
        SignableBody::Bytes(request.body.as_bytes()),
    )?;
    let (signature, _) = sign(signable, &params)?.into_parts();
    let unsigned = http::Request::builder().method(request.method).uri(request.url.as_str());
    let unsigned =
        request.headers.iter().fold(unsigned, |unsigned, (name, value)| unsigned.header(*name, value));
    let mut signed = unsigned.body(request.body.clone())?;
    signature.apply_to_request_http1x(&mut signed);
    Ok(signed.try_into()?)
}

/// S3 signs the path as it is sent, and wants the hash of the body in a header.
/// Source: Amazon S3 API reference, "Signature Calculations for the Authorization Header".
fn settings(service: Service) -> SigningSettings {
    let mut settings = SigningSettings::default();
    if service == S3 {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    settings
}

fn date(headers: &HeaderMap) -> Option<&str> {
    headers.get(DATE)?.to_str().ok()
}

/// The body of a successful answer, or the error that it is.
fn judged(action: &str, answer: Answer) -> Result<String, RequestError> {
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    let (code, message) = code_and_message(&answer);
    let error = refused(action, answer.status, &code, &message);
    let ahead = date(&answer.headers).and_then(super::parse_date).map(|date| date.duration_since(answer.at));
    match (&error, ahead) {
        (RequestError::Expired { .. } | RequestError::NotAccepted { .. }, Some(ahead))
            if ahead.abs() > LARGEST_CLOCK_DIFFERENCE =>
        {
            Err(RequestError::Clock { ahead })
        }
        _ => Err(error),
    }
}

/// The error with this code. Services spell the same failure differently.
/// Source: the services' API references, "Common Errors".
fn refused(action: &str, status: u16, code: &str, message: &str) -> RequestError {
    let code = service_code(code).unwrap_or("no code").to_owned();
    let has = |part: &str| code.contains(part);
    match code.as_str() {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => RequestError::Expired { code },
        "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "UnrecognizedClientException"
        | "RequestTimeTooSkewed" => RequestError::NotAccepted { code },
        "ValidationError" if message.ends_with("does not exist") => RequestError::NotFound { code },
        _ if has("AccessDenied") || has("AuthorizationError") || has("UnauthorizedOperation") => {
            RequestError::Denied { action: action.to_owned() }
        }
        "SlowDown" => RequestError::Throttled { code },
        _ if status == 429 || has("Throttl") || has("TooManyRequests") => RequestError::Throttled { code },
        _ if status == 404 || has("NotFound") || has("NonExistentQueue") => RequestError::NotFound { code },
        _ if status == 403 => RequestError::Denied { action: action.to_owned() },
        _ => RequestError::Failed { status, code },
    }
}

/// The code and the message of an error in any of the protocols.
/// Source: Smithy, "AWS restJson1", "AWS JSON 1.0" and "AWS query" protocols, "Operation error serialization".
fn code_and_message(answer: &Answer) -> (String, String) {
    #[derive(Deserialize)]
    struct Xml {
        #[serde(rename = "Error")]
        error: Fields,
    }
    #[derive(Deserialize)]
    struct Fields {
        #[serde(rename = "Code", default)]
        code: String,
        #[serde(rename = "Message", default)]
        message: String,
    }
    if let Ok(Xml { error }) = quick_xml::de::from_str(&answer.body) {
        return (error.code, error.message);
    }
    // S3's error has nothing around it.
    if answer.body.contains("<Code>")
        && let Ok(Fields { code, message }) = quick_xml::de::from_str(&answer.body)
    {
        return (code, message);
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let text = |names: &[&str]| {
        names.iter().find_map(|name| body.get(name)?.as_str()).unwrap_or_default().to_owned()
    };
    let header = answer.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    let code = header.map_or_else(|| text(&["__type", "code", "Code"]), str::to_owned);
    // With a namespace in front, or an address behind.
    let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
    (code.to_owned(), text(&["message", "Message"]))
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use reqwest::header::HeaderValue;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let at = "2026-01-02T10:00:00Z".parse().unwrap();
        Answer { status, headers: HeaderMap::new(), body: body.to_owned(), at }
    }

    fn said(answer: Answer) -> String {
        judged("lambda:GetAlias", answer).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do_and_without_the_text_of_aws() {
        let xml = |code: &str, message: &str| {
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>r</RequestId></ErrorResponse>"
            )
        };
        let denied = xml("AccessDenied", "User: arn:aws:iam::1:user/kim is not authorized");
        assert_eq!(said(answer(403, &denied)), "the credentials may not call lambda:GetAlias");
        let missing = judged("x", answer(400, &xml("ValidationError", "Stack with id x does not exist")));
        assert!(matches!(missing, Err(RequestError::NotFound { .. })), "{missing:?}");
        assert!(said(answer(403, &xml("ExpiredToken", "kim"))).contains("`aws sso login`"));
        assert!(said(answer(403, &xml("InvalidClientTokenId", "kim"))).contains("check the access key"));
        assert_eq!(said(answer(500, "<html>kim</html>")), "AWS answered 500 (no code)");
        assert_eq!(
            said(answer(400, &xml("Throttling", "kim"))),
            "AWS throttled the call (Throttling); try again"
        );
        assert_eq!(said(answer(400, &xml("ValidationError", "kim"))), "AWS answered 400 (ValidationError)");
    }

    #[test]
    fn an_error_is_read_in_every_protocol() {
        let json = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"kim"}"#;
        let by_header = || {
            let mut answer = answer(403, r#"{"Message":"kim"}"#);
            let name = HeaderValue::from_static("AccessDeniedException:http://internal.amazon.com/");
            answer.headers.insert("x-amzn-errortype", name);
            answer
        };
        for answer in [answer(400, json), by_header()] {
            assert_eq!(said(answer), "the credentials may not call lambda:GetAlias");
        }
        assert!(said(answer(404, "")).starts_with("AWS does not know it (no code)"));
        assert!(said(answer(403, "")).starts_with("the credentials may not call"));
    }

    #[test]
    fn a_signature_that_fails_because_of_the_clock_says_so() {
        let at = |date: &'static str, code: &str| {
            let mut answer = answer(403, &format!(r#"{{"__type":"{code}"}}"#));
            answer.headers.insert(DATE, HeaderValue::from_static(date));
            said(answer)
        };
        let (later, earlier) = ("Fri, 02 Jan 2026 10:07:00 GMT", "Fri, 02 Jan 2026 09:30:00 GMT");
        assert_eq!(
            at(later, "InvalidSignatureException"),
            "AWS does not accept requests that are signed by this machine's clock, which is 7 min behind AWS's; set \
             the clock"
        );
        assert!(at(earlier, "RequestExpired").contains("which is 30 min ahead of AWS's"));
        assert!(
            at("Fri, 02 Jan 2026 10:04:00 GMT", "SignatureDoesNotMatch").contains("check the access key")
        );
        assert!(at(later, "AccessDeniedException").starts_with("the credentials may not call"));
    }

    #[test]
    fn the_errors_of_an_sdk_are_said_in_the_same_words() {
        let said = |error| RequestError::of_sdk("sqs:ReceiveMessage", error).to_string();
        let code = |code: &str| code.to_owned();
        let denied = CallError::Denied { code: code("AccessDenied") };
        assert_eq!(said(denied), "the credentials may not call sqs:ReceiveMessage");
        assert!(said(CallError::Denied { code: code("ExpiredToken") }).contains("`aws sso login`"));
        let unknown = CallError::Failed { status: 400, code: code("UnrecognizedClientException") };
        assert!(said(unknown).contains("check the access key"));
        assert_eq!(said(CallError::TimedOut), CallError::TimedOut.to_string());
    }

    #[test]
    fn a_request_is_signed_for_its_service_and_region() {
        let credentials = Credentials::new("AKIA", "hush", Some("token".to_owned()), None, "test");
        let request = Outgoing {
            action: "GetAlias",
            method: "GET",
            url: "https://lambda.eu-west-1.amazonaws.com/2015-03-31/functions/a%3Ab/aliases/live?x=1"
                .parse()
                .unwrap(),
            headers: vec![("x-amz-target", "t".to_owned())],
            body: String::new(),
        };
        let signed = signed(&request, LAMBDA, "eu-west-1", &credentials.into(), now()).unwrap();
        let authorization = signed.headers()["authorization"].to_str().unwrap();
        assert!(authorization.contains("/eu-west-1/lambda/aws4_request"), "{authorization}");
        assert!(authorization.contains("x-amz-target") && !authorization.contains("hush"), "{authorization}");
        assert_eq!(signed.headers()["x-amz-security-token"], "token");
        assert_eq!(signed.url().as_str(), request.url.as_str());
    }

    /// Source: Amazon S3 API reference, "Examples: Signature Calculations", "GET Bucket (List Objects)".
    #[test]
    fn a_request_to_s3_has_the_signature_of_its_documentation() {
        let request = Outgoing {
            action: "ListBucket",
            method: "GET",
            url: "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J".parse().unwrap(),
            headers: Vec::new(),
            body: String::new(),
        };
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", secret, None, None, "test");
        let at = "2013-05-24T00:00:00Z".parse().unwrap();
        let signed = signed(&request, S3, "us-east-1", &credentials.into(), at).unwrap();
        let header = signed.headers()["authorization"].to_str().unwrap();
        let signature = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
        assert!(header.ends_with(&format!("Signature={signature}")), "{header}");
    }
}
