//! What the environment has to say of the sender.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use learnink_webhook::config::{ConfigError, optional, required};
use reqwest::Url;

use super::endpoint::SigningKeys;
use super::fcm::{self, ServiceAccount};
use super::onesignal::{self, ApiKey};
use super::secret::{Source, VARIABLE as SECRET};

/// The variable that chooses the sender.
const SENDER: &str = "LEARNINK_PUSH";
/// The variable that holds the sender's address.
pub(super) const URL: &str = "LEARNINK_PUSH_URL";
/// The variable that holds how old an event may be, in hours.
const MAX_AGE: &str = "LEARNINK_PUSH_MAX_AGE";
/// The variable that holds the id of the app at `OneSignal`.
pub(super) const APP_ID: &str = "LEARNINK_ONESIGNAL_APP_ID";
/// The variable that holds what the topics at FCM start with.
const TOPIC_PREFIX: &str = "LEARNINK_FCM_TOPIC_PREFIX";

/// How old an event may be, in hours, unless the environment says otherwise.
const DEFAULT_MAX_AGE_HOURS: u32 = 24;

/// What an address has to be like.
const ADDRESS: &str = "it must be an address that starts with `https://`, without a user name; plain `http://` \
                       is for this machine only";

/// The configuration of the `push` handler. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) sender: SenderConfig,
    /// Older events are recorded, and not sent.
    pub(super) max_age: Duration,
}

/// Who sends.
#[derive(Debug, Clone)]
pub(super) enum SenderConfig {
    /// The customer's own HTTPS endpoint.
    Endpoint {
        address: Address,
        secret: Source<SigningKeys>,
    },
    OneSignal {
        address: Address,
        app_id: String,
        secret: Source<ApiKey>,
    },
    Fcm {
        address: Address,
        topic_prefix: String,
        secret: Source<ServiceAccount>,
    },
}

impl Config {
    /// Reads the configuration; `None` where `LEARNINK_PUSH` is not set and the handler is switched off.
    /// A secret in the environment is checked here; one in AWS Secrets Manager when it is first needed.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the variable and what belongs there, and never its value.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let Some(sender) = optional(&variable, SENDER) else { return Self::off(variable) };
        let sender = match sender.trim() {
            "endpoint" => {
                let url = required(&variable, URL, "the HTTPS address that notifications are posted to")?;
                SenderConfig::Endpoint { address: Address::parse(&url)?, secret: Source::read(&variable)? }
            }
            "onesignal" => SenderConfig::OneSignal {
                address: Address::base(&variable, onesignal::BASE_URL)?,
                app_id: app_id(&variable)?,
                secret: Source::read(&variable)?,
            },
            "fcm" => SenderConfig::Fcm {
                address: Address::base(&variable, fcm::BASE_URL)?,
                topic_prefix: topic_prefix(&variable)?,
                secret: Source::read(&variable)?,
            },
            _ => {
                let problem =
                    "it must be `endpoint`, `onesignal` or `fcm`; leave it empty to switch push off";
                return Err(ConfigError::unusable(SENDER, problem));
            }
        };
        Ok(Some(Self { sender, max_age: max_age(&variable)? }))
    }

    /// Without a sender, nobody who has set one up must wait for notifications in vain.
    fn off(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        match [URL, APP_ID, SECRET].into_iter().find(|name| optional(&variable, name).is_some()) {
            Some(name) => {
                let problem = format!(
                    "there is no sender to use it; set {SENDER} to `endpoint`, `onesignal` or `fcm`, or leave \
                     {name} empty"
                );
                Err(ConfigError::unusable(name, problem))
            }
            None => Ok(None),
        }
    }
}

fn max_age(variable: impl Fn(&str) -> Option<String>) -> Result<Duration, ConfigError> {
    let hours = match optional(variable, MAX_AGE) {
        None => DEFAULT_MAX_AGE_HOURS,
        Some(hours) => hours.trim().parse().ok().filter(|hours| *hours > 0).ok_or_else(|| {
            let problem = "it must be a whole number of hours, 1 or more, after which nobody wants to be \
                           notified any more";
            ConfigError::unusable(MAX_AGE, problem)
        })?,
    };
    Ok(Duration::from_hours(hours.into()))
}

fn app_id(variable: impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let id = required(variable, APP_ID, "the App ID, from OneSignal's Settings, Keys & IDs")?;
    let id = id.trim();
    let part_lengths = id.split('-').map(str::len);
    if part_lengths.eq([8, 4, 4, 4, 12]) && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
        Ok(id.to_owned())
    } else {
        let problem = "it is no UUID; copy the App ID from OneSignal's Settings, Keys & IDs";
        Err(ConfigError::unusable(APP_ID, problem))
    }
}

fn topic_prefix(variable: impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let prefix = optional(variable, TOPIC_PREFIX).unwrap_or_else(|| fcm::TOPIC_PREFIX.to_owned());
    let prefix = prefix.trim();
    if prefix.len() <= fcm::LONGEST_TOPIC_PREFIX_BYTES && prefix.bytes().all(fcm::is_topic_byte) {
        Ok(prefix.to_owned())
    } else {
        let problem = "it has a character that FCM takes in no topic, or more than 100; use letters, digits, \
                       `-`, `_`, `.` and `~`";
        Err(ConfigError::unusable(TOPIC_PREFIX, problem))
    }
}

/// Where a sender listens. `Debug` shows the host alone: the rest may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address(Url);

impl Address {
    /// Checks the address of the customer's endpoint.
    fn parse(url: &str) -> Result<Self, ConfigError> {
        Self::checked(url).ok_or_else(|| ConfigError::unusable(URL, ADDRESS))
    }

    /// The address below which an API has its paths: `ours`, unless the environment has another.
    fn base(variable: impl Fn(&str) -> Option<String>, ours: &'static str) -> Result<Self, ConfigError> {
        let url = optional(variable, URL).unwrap_or_else(|| ours.to_owned());
        let address = Self::parse(&url)?;
        if address.0.query().is_some() || address.0.fragment().is_some() {
            return Err(ConfigError::unusable(URL, "it must be a base address, without `?` and `#`"));
        }
        Ok(address)
    }

    /// An address that personal data and credentials may be sent to.
    pub(super) fn checked(url: &str) -> Option<Self> {
        let address = Self(Url::parse(url.trim()).ok()?);
        let is_private = match address.0.scheme() {
            "https" => address.0.has_host(),
            "http" => address.is_this_machine(),
            _ => false,
        };
        let names_nobody = address.0.username().is_empty() && address.0.password().is_none();
        (is_private && names_nobody).then_some(address)
    }

    /// The address itself.
    pub(super) fn url(&self) -> Url {
        self.0.clone()
    }

    /// An address below it; each part becomes a segment of the path.
    pub(super) fn below(&self, parts: &[&str]) -> Url {
        let mut url = self.0.clone();
        // Fails for addresses without a path, such as `mailto:`, which `checked` has sorted out.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Whether it is one that no other machine can have.
    pub(super) fn is_this_machine(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = host == "localhost" || host.ends_with(".localhost");
        is_name || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.0.host_str()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: [(&str, &str); 3] = [
        (SENDER, "endpoint"),
        (URL, "https://push.test/learnink?tenant=7"),
        ("LEARNINK_PUSH_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ];
    const ONESIGNAL: [(&str, &str); 3] = [
        (SENDER, "onesignal"),
        (APP_ID, "fcfd4df3-d387-49e8-a8a1-0a36084b0813"),
        ("LEARNINK_PUSH_SECRET", "os_v2_app_secret"),
    ];
    const FCM: [(&str, &str); 2] = [(SENDER, "fcm"), ("LEARNINK_PUSH_SECRET_ID", "learnink/fcm")];

    /// The configuration that `variables` make, of which the later ones win.
    fn read(variables: &[(&str, &str)], others: &[(&str, &str)]) -> Result<Option<Config>, String> {
        let all: Vec<_> = variables.iter().chain(others).collect();
        let lookup = |name: &str| {
            let found = all.iter().rev().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_sender_the_handler_is_switched_off() {
        assert!(read(&[], &[]).unwrap().is_none());
        assert!(read(&[], &[(SENDER, " "), (MAX_AGE, "24"), (TOPIC_PREFIX, "learner-")]).unwrap().is_none());
    }

    #[test]
    fn a_sender_that_is_set_up_and_not_chosen_is_an_error() {
        for variable in [URL, APP_ID, SECRET] {
            let error = read(&[], &[(variable, "pigeons")]).unwrap_err();
            let expected =
                format!("{variable} cannot be used: there is no sender to use it; set LEARNINK_PUSH to");
            assert!(error.starts_with(&expected) && !error.contains("pigeons"), "{error}");
        }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = read(&FCM, &[]).unwrap().unwrap();
        assert_eq!(config.max_age, Duration::from_hours(24));
        let SenderConfig::Fcm { address, topic_prefix, .. } = config.sender else { panic!("not FCM") };
        assert_eq!((address.url().as_str(), &*topic_prefix), ("https://fcm.googleapis.com/", "learner-"));
        let SenderConfig::OneSignal { address, .. } = read(&ONESIGNAL, &[]).unwrap().unwrap().sender else {
            panic!("not OneSignal")
        };
        assert_eq!(address.url().as_str(), "https://api.onesignal.com/");
    }

    #[test]
    fn every_error_names_the_variable_and_what_belongs_there_and_never_the_value() {
        let all: Vec<String> = [
            (&ENDPOINT[..], (SENDER, "pigeons")),
            (&ENDPOINT, (URL, "")),
            (&ENDPOINT, (URL, "pigeons")),
            (&ENDPOINT, ("LEARNINK_PUSH_SECRET", "")),
            (&ENDPOINT, ("LEARNINK_PUSH_SECRET", "pigeons")),
            (&ENDPOINT, ("LEARNINK_PUSH_SECRET", "whsec_pigeons==")),
            (&ENDPOINT, ("LEARNINK_PUSH_SECRET", "whsec_cGlnZW9ucw==")),
            (&ENDPOINT, (MAX_AGE, "0")),
            (&ONESIGNAL, (APP_ID, "")),
            (&ONESIGNAL, (APP_ID, "pigeons")),
            (&ONESIGNAL, ("LEARNINK_PUSH_SECRET", "Key pigeons")),
            (&ONESIGNAL, (URL, "https://proxy.test/?pigeons")),
            (&FCM, (TOPIC_PREFIX, "pigeons/")),
            (&FCM, ("LEARNINK_PUSH_SECRET", r#"{"private_key":"pigeons"}"#)),
        ]
        .iter()
        .map(|(variables, other)| read(variables, &[*other]).unwrap_err())
        .collect();
        assert!(all.iter().all(|error| !error.contains("pigeons")), "{all:#?}");
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn personal_data_goes_over_plain_http_to_this_machine_only() {
        for (url, is_taken) in [
            ("https://push.test/x", true),
            ("http://localhost:9000", true),
            ("http://push.localhost", true),
            ("http://127.0.0.9/x", true),
            ("http://[::1]:9000/x", true),
            ("http://push.test/x", false),
            ("http://localhost.push.test", false),
            ("http://10.0.0.1", false),
            ("https://user:password@push.test", false),
            ("ftp://push.test", false),
            ("/x", false),
        ] {
            assert_eq!(Address::checked(url).is_some(), is_taken, "{url}");
        }
    }

    #[test]
    fn nothing_prints_a_secret_or_the_rest_of_an_address() {
        let configs = [read(&ENDPOINT, &[]), read(&ONESIGNAL, &[]), read(&FCM, &[])];
        let printed = format!("{configs:?}");
        for secret in ["MfKQ9r8G", "os_v2_app_secret", "tenant"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
