//! The client for a bucket, and S3's answer if the bucket is in another region.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use learnink_webhook::config::{ConfigError, optional, required};
use learnink_webhook::error::service_code;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, RetryConfig};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};

use super::{VARIABLE, problem};

/// How long one request to S3 may take, and how long all its tries together. The handler has 24 s of the
/// consumer's 30. A handler that is cut off writes the same write-once object again, which does no harm.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_RETRIES: usize = 2;

/// How long one request may take on an operator's machine, where files of a stream are read and written: some 64 MiB over
/// any connection.
const OPERATORS_REQUEST_TIMEOUT: Duration = Duration::from_mins(10);

/// How long a connection may take, so that a connection that died while the environment was frozen costs little
/// time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The header in which S3 names the region of a bucket. Source: Amazon S3 API reference, `HeadBucket`.
const BUCKET_REGION: &str = "x-amz-bucket-region";

/// S3's error codes for a bucket in another region.
/// Source: Amazon S3 API reference, "List of error codes".
const ELSEWHERE: [&str; 5] = [
    "PermanentRedirect",
    "TemporaryRedirect",
    "Redirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
];

/// The client for a bucket, from the variables that Lambda sets; credentials are valid for the life of the
/// process.
pub(super) fn client(
    bucket: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<AmazonS3, ConfigError> {
    let credential = |name| required(&variable, name, "AWS credentials, which Lambda sets");
    let region = required(&variable, "AWS_REGION", "the AWS region, which Lambda sets")?;
    let endpoint = optional(&variable, "AWS_ENDPOINT_URL_S3")
        .or_else(|| optional(&variable, "AWS_ENDPOINT_URL"))
        .or_else(|| endpoint_of(&region));
    let is_http = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let is_in_lambda = optional(&variable, "AWS_LAMBDA_FUNCTION_NAME").is_some();
    let timeout = if is_in_lambda { REQUEST_TIMEOUT } else { OPERATORS_REQUEST_TIMEOUT };
    let client = ClientOptions::new()
        .with_timeout(timeout)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_content_type_for_suffix("gz", "application/gzip")
        .with_allow_http(is_http);
    let retry =
        RetryConfig { max_retries: MOST_RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_access_key_id(credential("AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(credential("AWS_SECRET_ACCESS_KEY")?)
        .with_client_options(client)
        .with_http_connector(Connector)
        .with_retry(retry)
        // A bucket with a default retention refuses uploads without one.
        // Source: Amazon S3 user guide, "Managing Object Lock", "Uploading objects to an Object Lock bucket".
        .with_checksum_algorithm(Checksum::SHA256);
    if let Some(token) = optional(&variable, "AWS_SESSION_TOKEN") {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder.build().map_err(|error| {
        ConfigError::unusable(VARIABLE, format!("no client for S3 can be made: {}", problem(&error)))
    })
}

/// S3's endpoint in a region that is not below `amazonaws.com`, such as China's; `object_store` knows only that
/// domain.
/// Source: botocore, `partitions.json`.
fn endpoint_of(region: &str) -> Option<String> {
    let suffixes = [
        ("cn-", "amazonaws.com.cn"),
        ("eusc-", "amazonaws.eu"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("us-isof-", "csp.hci.ic.gov"),
    ];
    let (_, suffix) = suffixes.into_iter().find(|(prefix, _)| region.starts_with(prefix))?;
    Some(format!("https://s3.{region}.{suffix}"))
}

/// Makes clients that read two things that `object_store` does not: a bucket's region, from the headers of an
/// error and the body of a redirect, and listings with names that it cannot represent.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Reader(client)))
    }
}

#[derive(Debug)]
struct Reader(HttpClient);

impl HttpService for Reader {
    // Written out, because the trait is made with `async_trait`.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let is_listing = request.uri().query().is_some_and(|query| query.contains("list-type="));
            let response = self.0.execute(request).await?;
            let status = response.status();
            let is_redirect = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
            let is_refused = is_redirect || status == StatusCode::BAD_REQUEST;
            let is_listed = is_listing && status.is_success();
            if !(is_refused || is_listed) {
                return Ok(response);
            }
            let (parts, body) = response.into_parts();
            let body = body.bytes().await?;
            if is_listed {
                let listing = without_odd_names(&String::from_utf8_lossy(&body));
                return Ok(HttpResponse::from_parts(parts, listing.into()));
            }
            match OtherRegion::read(status, &parts.headers, &String::from_utf8_lossy(&body)) {
                Some(error) => Err(HttpError::new(HttpErrorKind::Unknown, error)),
                None => Ok(HttpResponse::from_parts(parts, body.into())),
            }
        })
    }
}

/// The bucket is in another region than the one that the request was signed for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) struct OtherRegion {
    /// The region, if S3 names it.
    region: Option<String>,
    /// S3's code for it.
    code: Option<String>,
}

impl OtherRegion {
    fn read(status: StatusCode, headers: &HeaderMap, body: &str) -> Option<Self> {
        let code = element(body, "Code").and_then(service_code);
        let header = headers.get(BUCKET_REGION).and_then(|value| value.to_str().ok());
        let region = header.or_else(|| element(body, "Region")).filter(|region| is_region(region));
        let is_said = code.is_some_and(|code| ELSEWHERE.contains(&code));
        let is_so = match status {
            // It may be malformed for another reason, and then there is no region.
            StatusCode::BAD_REQUEST => {
                is_said && (region.is_some() || code != Some("AuthorizationHeaderMalformed"))
            }
            _ => is_said || region.is_some() || !headers.contains_key(LOCATION),
        };
        is_so.then(|| Self { region: region.map(str::to_owned), code: code.map(str::to_owned) })
    }
}

impl fmt::Display for OtherRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.as_deref().unwrap_or("the bucket's");
        f.write_str("the bucket is in another region")?;
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        write!(f, "; set AWS_REGION to {region}, or, in a Lambda, use a bucket in the function's region")
    }
}

/// A listing without the objects and folders whose names have an empty part, `.` or `..`. S3 accepts them and
/// `object_store` does not: one of them would fail the whole listing. Records never have such names.
fn without_odd_names(listing: &str) -> String {
    let without = |listing: &str, element_of_one: &str, element_of_its_name: &str| {
        let (start, end) = (format!("<{element_of_one}>"), format!("</{element_of_one}>"));
        let mut kept = String::with_capacity(listing.len());
        let mut rest = listing;
        while let Some((before, (one, after))) =
            rest.split_once(&start).and_then(|(before, rest)| Some((before, rest.split_once(&end)?)))
        {
            kept.push_str(before);
            if element(one, element_of_its_name).is_none_or(|name| Path::parse(name).is_ok()) {
                kept.extend([start.as_str(), one, &end]);
            }
            rest = after;
        }
        kept.push_str(rest);
        kept
    };
    without(&without(listing, "Contents", "Key"), "CommonPrefixes", "Prefix")
}

/// The text of an element of S3's answer.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text)
}

/// Whether it is the name of a region; other text in an answer is not repeated.
fn is_region(text: &str) -> bool {
    let is_of_one = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(is_of_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_its_own_endpoint() {
        for (region, endpoint) in [
            ("eu-west-1", None),
            ("us-gov-west-1", None),
            ("mx-central-1", None),
            ("cn-north-1", Some("https://s3.cn-north-1.amazonaws.com.cn")),
            ("eusc-de-east-1", Some("https://s3.eusc-de-east-1.amazonaws.eu")),
            ("us-iso-east-1", Some("https://s3.us-iso-east-1.c2s.ic.gov")),
            ("us-isob-east-1", Some("https://s3.us-isob-east-1.sc2s.sgov.gov")),
        ] {
            assert_eq!(endpoint_of(region).as_deref(), endpoint);
        }
    }

    #[test]
    fn only_the_name_of_a_region_is_repeated() {
        for (text, is_one) in
            [("eu-central-1", true), ("", false), ("<html>", false), ("t0k3n AbC", false), ("EU", false)]
        {
            assert_eq!(is_region(text), is_one, "{text}");
        }
        assert!(!is_region(&"a".repeat(33)));
    }
}
