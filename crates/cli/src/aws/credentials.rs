//! The region and the credentials of a command: from the environment, or from a profile by way of the AWS CLI.
//!
//! The AWS CLI knows every kind of profile: SSO, assumed roles, other programs. The SDK's own chain would add three
//! SDK crates to the first build, and still not read all of them.

use std::fmt;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use jiff::Timestamp;
use learnink_webhook::config::ConfigError;
use serde::Deserialize;

use crate::{now, variable};

/// Credentials that expire sooner are read again.
const REFRESHED_BEFORE: Duration = Duration::from_mins(5);

/// The variables that the AWS CLI and the SDKs read for the same thing, the first first.
/// Source: AWS CLI user guide, "Environment variables".
const REGION: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// The access key in the environment.
const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";

/// The configuration of AWS's clients. A profile that is named wins over an access key in the environment, as with
/// the AWS CLI; a region in the environment wins over the profile's.
///
/// # Errors
///
/// [`ConfigError`] if no region or no credentials are found, with what to do.
pub(crate) fn config(profile: Option<&str>) -> Result<SdkConfig, ConfigError> {
    let region = match REGION.into_iter().find_map(variable) {
        Some(region) => region,
        None => region_of(profile)?,
    };
    let with_region =
        move |name: &str| if name == "AWS_REGION" { Some(region.clone()) } else { variable(name) };
    let aws = learnink_aws::sdk_config(with_region)?;
    if profile.is_none() && variable(ACCESS_KEY).is_some() {
        return Ok(aws);
    }
    let cli = AwsCli { profile: profile.map(str::to_owned), held: Mutex::default() };
    // At once, so that what is wrong is said before anything else is done.
    cli.credentials(now()).map_err(|error| match profile {
        Some(_) => ConfigError::unusable("--profile", error.to_string()),
        None => ConfigError::missing(
            ACCESS_KEY,
            format!("an access key, or choose a profile with AWS_PROFILE: {error}"),
        ),
    })?;
    Ok(aws.to_builder().credentials_provider(SharedCredentialsProvider::new(cli)).build())
}

/// The environment of a program that knows no profiles: the region and the credentials of `aws` in place of the
/// variables.
///
/// # Errors
///
/// [`CredentialsError`] if the credentials cannot be read.
pub(crate) async fn as_variables(
    aws: &SdkConfig,
) -> Result<impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static, CredentialsError> {
    let credentials = match aws.credentials_provider() {
        Some(provider) => Some(provider.provide_credentials().await?),
        None => None,
    };
    let region = aws.region().map(ToString::to_string);
    Ok(move |name: &str| match (name, &credentials) {
        ("AWS_REGION", _) => region.clone(),
        ("AWS_ACCESS_KEY_ID", Some(credentials)) => Some(credentials.access_key_id().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", Some(credentials)) => Some(credentials.secret_access_key().to_owned()),
        ("AWS_SESSION_TOKEN", Some(credentials)) => credentials.session_token().map(str::to_owned),
        _ => variable(name),
    })
}

/// The region of a profile.
fn region_of(profile: Option<&str>) -> Result<String, ConfigError> {
    let region = aws_cli(&["configure", "get", "region"], profile).ok();
    let region = region.map(|region| region.trim().to_owned()).filter(|region| !region.is_empty());
    region.ok_or_else(|| {
        ConfigError::missing(
            "AWS_REGION",
            "the stack's region, such as eu-west-1, or give the profile a region",
        )
    })
}

/// Credentials from `aws configure export-credentials`, read again before they expire.
struct AwsCli {
    profile: Option<String>,
    held: Mutex<Option<Credentials>>,
}

impl AwsCli {
    fn credentials(&self, now: Timestamp) -> Result<Credentials, CliError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = system_time(now) + REFRESHED_BEFORE;
        if let Some(credentials) = held.as_ref().filter(|held| held.expiry().is_none_or(|end| end > soon)) {
            return Ok(credentials.clone());
        }
        let arguments = ["configure", "export-credentials", "--format", "process"];
        let printed = aws_cli(&arguments, self.profile.as_deref())?;
        let credentials = parse(&printed).ok_or(CliError::NotUnderstood)?;
        *held = Some(credentials.clone());
        Ok(credentials)
    }
}

impl fmt::Debug for AwsCli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCli").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl ProvideCredentials for AwsCli {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // It takes about a second, once an hour at most.
        future::ProvideCredentials::ready(self.credentials(now()).map_err(CredentialsError::not_loaded))
    }
}

/// A time after 1970, as the SDK takes it.
pub(crate) fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + at.duration_since(Timestamp::UNIX_EPOCH).unsigned_abs()
}

/// Why the AWS CLI returned nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum CliError {
    #[error("profiles are read by AWS CLI 2, which is not installed")]
    NotInstalled,
    #[error("profiles are read by AWS CLI 2, which does not start: {0}")]
    NotStarted(String),
    #[error("`aws configure export-credentials` failed: {0}; a profile of SSO needs `aws sso login`")]
    Failed(String),
    #[error("`aws configure export-credentials` printed no credentials; it needs AWS CLI 2")]
    NotUnderstood,
}

/// What `aws` prints.
fn aws_cli(arguments: &[&str], profile: Option<&str>) -> Result<String, CliError> {
    let mut command = Command::new("aws");
    command.args(arguments);
    if let Some(profile) = profile {
        command.args(["--profile", profile]);
    }
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => CliError::NotInstalled,
        _ => CliError::NotStarted(error.to_string()),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // AWS CLI 1 does not know the command.
        if said.contains("Invalid choice") {
            return Err(CliError::NotUnderstood);
        }
        // Its last line is the error; those before it may be about the terminal or the version.
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let last = last.unwrap_or("it says nothing").trim_end_matches('.');
        return Err(CliError::Failed(last.to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads credentials in the format of a credential process.
/// Source: AWS SDKs and Tools reference guide, "Process credential provider".
fn parse(printed: &str) -> Option<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Exported {
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
        expiration: Option<Timestamp>,
    }
    let exported: Exported = serde_json::from_str(printed).ok()?;
    Some(Credentials::new(
        exported.access_key_id,
        exported.secret_access_key,
        exported.session_token,
        exported.expiration.map(system_time),
        "AwsCli",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_as_the_aws_cli_prints_them() {
        let printed = r#"{ "Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "s", "SessionToken": "t",
            "Expiration": "2026-01-02T10:00:00+00:00" }"#;
        let credentials = parse(printed).unwrap();
        let read =
            (credentials.access_key_id(), credentials.secret_access_key(), credentials.session_token());
        assert_eq!(read, ("AKIA", "s", Some("t")));
        let expiry: Timestamp = "2026-01-02T10:00:00Z".parse().unwrap();
        assert_eq!(credentials.expiry(), Some(system_time(expiry)));
        assert!(
            parse(r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s"}"#).unwrap().expiry().is_none()
        );
        assert!(parse("AWS_ACCESS_KEY_ID=A").is_none());
    }

    #[test]
    fn held_credentials_are_kept_until_shortly_before_they_expire() {
        let now: Timestamp = "2026-01-02T10:00:00Z".parse().unwrap();
        let held = |expires_s: i64| {
            let expiry = system_time(now + jiff::SignedDuration::from_secs(expires_s));
            let credentials = Credentials::new("AKIA", "s", None, Some(expiry), "test");
            AwsCli { profile: Some("none".to_owned()), held: Mutex::new(Some(credentials)) }
        };
        assert_eq!(held(301).credentials(now).unwrap().access_key_id(), "AKIA");
        // There is no such profile, so what is read again is not found.
        assert!(held(300).credentials(now).is_err());
    }

    #[test]
    fn nothing_that_can_be_printed_shows_a_secret() {
        let credentials = parse(r#"{"AccessKeyId":"A","SecretAccessKey":"hush-1","SessionToken":"hush-2"}"#);
        let cli = AwsCli { profile: None, held: Mutex::new(credentials.clone()) };
        let printed = format!("{cli:?} {credentials:?}");
        assert!(!printed.contains("hush"), "{printed}");
    }
}
