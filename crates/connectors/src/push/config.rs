//! The configuration of the sender, from environment variables.

use std::time::Duration;

use learnink_aws::{Env, HttpsUrl};
use learnink_webhook::config::ConfigError;

use super::Sender;
use super::fcm::{self, Tokens};
use super::onesignal;

/// The variable that chooses the sender.
const SENDER: &str = "LEARNINK_PUSH";
/// The variable that holds the sender's address.
pub(super) const URL: &str = "LEARNINK_PUSH_URL";
/// The variable that holds how old an event may be, in hours.
const MAX_AGE: &str = "LEARNINK_PUSH_MAX_AGE";
/// The variable that holds our credentials at the sender.
const SECRET: &str = "LEARNINK_PUSH_SECRET";
/// The variable that names the secret in AWS Secrets Manager.
const SECRET_ID: &str = "LEARNINK_PUSH_SECRET_ID";
/// Where to look when the sender does not accept the secret.
pub(super) const WHERE_TO_LOOK: &str =
    "LEARNINK_PUSH_SECRET, or the secret that LEARNINK_PUSH_SECRET_ID names";
/// The variable that holds the id of the app at `OneSignal`.
pub(super) const APP_ID: &str = "LEARNINK_ONESIGNAL_APP_ID";
/// The variable that holds the prefix of the topics at FCM.
const TOPIC_PREFIX: &str = "LEARNINK_FCM_TOPIC_PREFIX";

/// How old an event may be, in hours, unless the environment says otherwise.
const DEFAULT_MAX_AGE_HOURS: u32 = 24;

/// The sender; `None` if `LEARNINK_PUSH` is not set and the handler is switched off. A secret in the environment
/// is checked here; one in AWS Secrets Manager when it is first needed.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there, and never its value.
pub(super) fn sender(env: &Env) -> Result<Option<Sender>, ConfigError> {
    let Some(sender) = env.text(SENDER) else { return off(env) };
    Ok(Some(match &*sender {
        "endpoint" => Sender::Endpoint {
            address: env.required(URL, "the HTTPS address that notifications are posted to")?,
            secret: env.secret(SECRET)?,
        },
        "onesignal" => Sender::OneSignal {
            address: base_address(env, onesignal::BASE_URL)?,
            app_id: app_id(env)?,
            secret: env.secret(SECRET)?,
        },
        "fcm" => Sender::Fcm {
            address: base_address(env, fcm::BASE_URL)?,
            topic_prefix: topic_prefix(env)?,
            secret: env.secret(SECRET)?,
            tokens: Tokens::default(),
        },
        _ => {
            let problem = "it must be `endpoint`, `onesignal` or `fcm`; leave it empty to switch push off";
            return Err(ConfigError::unusable(SENDER, problem));
        }
    }))
}

/// Without a sender, the other variables are an error: otherwise somebody would wait for notifications in vain.
fn off(env: &Env) -> Result<Option<Sender>, ConfigError> {
    match [URL, APP_ID, SECRET, SECRET_ID].into_iter().find(|name| env.text(name).is_some()) {
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

/// The largest age of an event that is sent.
pub(super) fn max_age(env: &Env) -> Result<Duration, ConfigError> {
    let hours = match env.text(MAX_AGE) {
        None => DEFAULT_MAX_AGE_HOURS,
        Some(hours) => hours.parse().ok().filter(|hours| *hours > 0).ok_or_else(|| {
            let problem = "it must be a whole number of hours, 1 or more, after which nobody wants to be \
                           notified any more";
            ConfigError::unusable(MAX_AGE, problem)
        })?,
    };
    Ok(Duration::from_hours(hours.into()))
}

fn app_id(env: &Env) -> Result<String, ConfigError> {
    let id: String = env.required(APP_ID, "the App ID, from OneSignal's Settings, Keys & IDs")?;
    let part_lengths = id.split('-').map(str::len);
    if part_lengths.eq([8, 4, 4, 4, 12]) && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
        Ok(id)
    } else {
        let problem = "it is not a UUID; copy the App ID from OneSignal's Settings, Keys & IDs";
        Err(ConfigError::unusable(APP_ID, problem))
    }
}

fn topic_prefix(env: &Env) -> Result<String, ConfigError> {
    let prefix = env.text(TOPIC_PREFIX).unwrap_or_else(|| fcm::TOPIC_PREFIX.to_owned());
    if prefix.len() <= fcm::LONGEST_TOPIC_PREFIX_BYTES && prefix.bytes().all(fcm::is_topic_byte) {
        Ok(prefix)
    } else {
        let problem = "it has a character that FCM takes in no topic, or more than 100; use letters, digits, \
                       `-`, `_`, `.` and `~`";
        Err(ConfigError::unusable(TOPIC_PREFIX, problem))
    }
}

/// The base address of an API: `default`, unless the environment has another.
fn base_address(env: &Env, default: &'static str) -> Result<HttpsUrl, ConfigError> {
    let text = env.text(URL).unwrap_or_else(|| default.to_owned());
    let address: HttpsUrl = text
        .parse()
        .map_err(|error: learnink_aws::http::NotHttps| ConfigError::unusable(URL, error.to_string()))?;
    if address.is_base() {
        Ok(address)
    } else {
        Err(ConfigError::unusable(URL, "it must be a base address, without `?` and `#`"))
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

    /// The sender by `variables`, of which later ones override earlier ones, and the largest age of an event.
    fn read(
        variables: &[(&str, &str)],
        others: &[(&str, &str)],
    ) -> Result<Option<(Sender, Duration)>, String> {
        let region = [("AWS_REGION", "eu-west-1")];
        let env = Env::of(region.iter().chain(variables).chain(others).copied());
        let sender = sender(&env).map_err(|error| error.to_string())?;
        let max_age = max_age(&env).map_err(|error| error.to_string())?;
        Ok(sender.map(|sender| (sender, max_age)))
    }

    fn failure(variables: &[(&str, &str)], other: (&str, &str)) -> String {
        read(variables, &[other]).err().unwrap()
    }

    #[test]
    fn without_a_sender_the_handler_is_switched_off() {
        assert!(read(&[], &[]).unwrap().is_none());
        assert!(read(&[], &[(SENDER, " "), (MAX_AGE, "24"), (TOPIC_PREFIX, "learner-")]).unwrap().is_none());
    }

    #[test]
    fn a_sender_that_is_set_up_and_not_chosen_is_an_error() {
        for variable in [URL, APP_ID, SECRET, SECRET_ID] {
            let error = failure(&[], (variable, "pigeons"));
            let expected =
                format!("{variable} cannot be used: there is no sender to use it; set LEARNINK_PUSH to");
            assert!(error.starts_with(&expected) && !error.contains("pigeons"), "{error}");
        }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let (sender, max_age) = read(&FCM, &[]).unwrap().unwrap();
        assert_eq!(max_age, Duration::from_hours(24));
        let Sender::Fcm { address, topic_prefix, .. } = sender else { panic!("not FCM") };
        assert_eq!((address.url().as_str(), &*topic_prefix), ("https://fcm.googleapis.com/", "learner-"));
        let (Sender::OneSignal { address, .. }, _) = read(&ONESIGNAL, &[]).unwrap().unwrap() else {
            panic!("not OneSignal")
        };
        assert_eq!(address.url().as_str(), "https://api.onesignal.com/");
    }

    #[test]
    fn an_app_id_is_a_uuid_by_its_digits_and_by_its_parts() {
        for id in ["fcfd4df3-d387-49e8-a8a1-0a36084b081g", "fcfd4df3-d387-49e8-a8a1-0a36084b08130"] {
            let error = failure(&ONESIGNAL, (APP_ID, id));
            assert!(error.contains("it is not a UUID"), "{error}");
        }
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
        .map(|(variables, other)| failure(variables, *other))
        .collect();
        assert!(all.iter().all(|error| !error.contains("pigeons")), "{all:#?}");
        insta::assert_snapshot!(all.join("\n"));
    }
}
