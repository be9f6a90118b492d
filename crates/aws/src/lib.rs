//! The building blocks of both Lambdas: [`Env`], the environment of the handlers; secrets; and AWS clients that
//! are configured only from the environment, on one TLS stack.
//!
//! `aws_config::load_from_env` looks for credentials, a region and settings in many places, of which a Lambda has
//! one. Linking them all costs a megabyte and part of every cold start, so this reads only the environment: no
//! profile files, no metadata server, no token exchange. `docs/performance.md` has the figures.

mod cached;
mod connections;
mod env;
mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod json_service;
pub mod secret;

use std::fmt;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use learnink_webhook::config::{MissingVariable, optional, required};
use learnink_webhook::router::LONGEST_CALL;

pub use cached::{Cached, RefreshCause};
pub use env::Env;
pub use error::CallError;
#[cfg(feature = "http")]
pub use http::HttpsUrl;
pub use json_service::{CallLimits, JsonService, Protocol, domain};
pub use secret::{Credential, Secret, SecretsManager, Token, Unusable};

/// Makes ring the default TLS provider, for libraries that do not name one, such as `reqwest`. Programs call it
/// first in `main`; a second call changes nothing.
pub fn install_tls_provider() {
    // Fails if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The configuration for every client of a Lambda. `variable` looks up an environment variable.
///
/// It reads `AWS_REGION`, the credentials that Lambda sets, and, for emulators and private endpoints,
/// `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>`. The root certificates are the system's; `SSL_CERT_FILE`
/// names others.
///
/// Clients share one pool of connections, and give up on a call after five seconds; an adapter sets its own limits
/// if its caller waits for it.
///
/// # Errors
///
/// [`MissingVariable`] when the region is missing.
pub fn sdk_config(
    variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> Result<SdkConfig, MissingVariable> {
    let pool = HttpClientBuilder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    Ok(config_without_client(variable)?.into_builder().http_client(pool).build())
}

/// The same without an HTTP client: for a [`JsonService`], which has its own.
///
/// # Errors
///
/// [`MissingVariable`] when the region is missing.
pub fn config_without_client(
    variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> Result<SdkConfig, MissingVariable> {
    let region = required(&variable, "AWS_REGION", "the AWS region, which Lambda sets")?;
    // Without them, a call would wait forever for a connection that died while the environment was frozen.
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(LONGEST_CALL)
        .build();
    let mut builder = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .timeout_config(timeouts)
        // It watches the throughput of large bodies; ours are small and have time limits.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    builder.set_endpoint_url(optional(&variable, "AWS_ENDPOINT_URL"));
    Ok(builder.service_config(Environment(variable)).build())
}

/// The variables of one service, such as `AWS_ENDPOINT_URL_SQS`.
/// Source: AWS SDKs and Tools reference guide, "Service-specific endpoints".
struct Environment<F>(F);

impl<F: Fn(&str) -> Option<String> + Send + Sync> LoadServiceConfig for Environment<F> {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace(' ', "_");
        optional(&self.0, &format!("{}_{service}", key.env()))
    }
}

impl<F> fmt::Debug for Environment<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "AWS_REGION" => "eu-west-1",
            "AWS_ENDPOINT_URL" => "http://127.0.0.1:1",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER" => "http://127.0.0.1:2",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn a_service_may_have_an_endpoint_of_its_own() {
        let config = sdk_config(variables).unwrap();
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:1"));
        let endpoint = |service| {
            let key = ServiceConfigKey::builder();
            let key = key.service_id(service).env("AWS_ENDPOINT_URL").profile("endpoint_url");
            config.service_config().unwrap().load_config(key.build().unwrap())
        };
        assert_eq!(endpoint("Secrets Manager").as_deref(), Some("http://127.0.0.1:2"));
        assert_eq!(endpoint("SQS"), None);
    }

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        let config = sdk_config(|name| {
            Some(if name == "AWS_REGION" { "\u{feff}eu-west-1\n" } else { " " }.to_owned())
        });
        let config = config.unwrap();
        assert_eq!((config.region().unwrap().as_ref(), config.endpoint_url()), ("eu-west-1", None));
        let key =
            ServiceConfigKey::builder().service_id("SQS").env("AWS_ENDPOINT_URL").profile("endpoint_url");
        assert_eq!(config.service_config().unwrap().load_config(key.build().unwrap()), None);
        assert!(sdk_config(|_| Some(String::new())).is_err());
    }

    #[test]
    fn no_call_is_waited_for_forever() {
        let timeouts = sdk_config(variables).unwrap().timeout_config().unwrap().clone();
        assert!(timeouts.operation_attempt_timeout() < timeouts.operation_timeout());
        // For a handler without a `longest_call`, calls end within its drain.
        assert_eq!(timeouts.operation_timeout(), Some(LONGEST_CALL));
    }

    #[test]
    fn without_a_region_the_error_names_the_variable() {
        let error = sdk_config(|_| None).unwrap_err();
        assert_eq!(error.to_string(), "AWS_REGION is not set; set it to the AWS region, which Lambda sets");
    }
}
