//! The environment from which a room of handlers is built: its variables, and its clients.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use aws_config::SdkConfig;
use learnink_webhook::config::{ConfigError, optional};

use crate::sdk_config;
use crate::secret::{Credential, Secret};

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;
type Connect = dyn Fn() -> Result<SdkConfig, ConfigError> + Send + Sync;

/// The environment of the handlers: its variables, and the means to make clients. Cloned, it is shared.
///
/// A room reads its own variables from it, when the program starts. A missing or malformed variable fails the
/// start, with an error that names it and says what to do.
///
/// ```
/// use learnink_aws::{Env, Secret, Token};
/// use learnink_webhook::Router;
/// use learnink_webhook::config::ConfigError;
///
/// fn router(env: &Env) -> Result<Router, ConfigError> {
///     let Some(points) = env.optional::<u32>("SHOP_POINTS")? else { return Ok(Router::off("badges")) };
///     let token: Secret<Token> = env.secret("SHOP_TOKEN")?; // or SHOP_TOKEN_ID, in Secrets Manager
///     // Router::new().on("badges", ...).with_state(...)
///     # let _ = (points, token);
///     # Ok(Router::new())
/// }
///
/// assert!(router(&Env::of([])).is_ok());
/// let error = router(&Env::of([("SHOP_POINTS", "many")])).unwrap_err();
/// assert!(error.to_string().starts_with("SHOP_POINTS cannot be used"));
/// ```
#[derive(Clone)]
pub struct Env {
    lookup: Arc<Lookup>,
    /// How AWS is reached, if that is not as the variables say.
    connect: Option<Arc<Connect>>,
    /// Made when a room first asks for it.
    aws: Arc<OnceLock<SdkConfig>>,
    /// How DynamoDB is reached, if not like the rest of AWS.
    tables: Option<SdkConfig>,
}

impl Env {
    /// The environment whose variables `variable` looks up. AWS is reached as [`sdk_config`] says.
    pub fn new(variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(variable), connect: None, aws: Arc::default(), tables: None }
    }

    /// An environment with only these variables, for tests.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables: Vec<_> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self::new(move |name| {
            let found = variables.iter().rev().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        })
    }

    /// The same environment, with these variables in place of those of the same names.
    #[must_use]
    pub fn with_variables(self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let variables: Vec<_> = variables.into_iter().collect();
        let lookup = self.lookup.clone();
        let overlaid = move |name: &str| match variables.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Some(value.clone()),
            None => lookup(name),
        };
        Self { lookup: Arc::new(overlaid), aws: Arc::default(), ..self }
    }

    /// The same environment, with AWS reached as `connect` says, which is called when a room first needs it.
    #[must_use]
    pub fn with_aws(
        self,
        connect: impl Fn() -> Result<SdkConfig, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self { connect: Some(Arc::new(connect)), aws: Arc::default(), ..self }
    }

    /// The same environment, with its DynamoDB tables elsewhere than the rest of AWS, such as in this process.
    #[must_use]
    pub fn with_tables(self, tables: SdkConfig) -> Self {
        Self { tables: Some(tables), ..self }
    }

    /// The text of a variable, without white space and invisible characters around it. An empty variable is not set.
    pub fn text(&self, variable: &str) -> Option<String> {
        optional(&*self.lookup, variable)
    }

    /// The value of a variable that may be set.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the text of `T`'s own error, when it is set and not a `T`. That text must not quote the
    /// value; for a type whose error does, use [`Env::text`]. For a secret, use [`Env::secret`].
    pub fn optional<T>(&self, variable: &'static str) -> Result<Option<T>, ConfigError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let parsed = self.text(variable).map(|text| text.parse());
        parsed.transpose().map_err(|error: T::Err| ConfigError::unusable(variable, error.to_string()))
    }

    /// The value of a variable that has to be set; `holds` completes "set it to ...".
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when it is not set, or not a `T`; see [`Env::optional`].
    pub fn required<T>(&self, variable: &'static str, holds: &'static str) -> Result<T, ConfigError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.optional(variable)?.ok_or_else(|| ConfigError::missing(variable, holds))
    }

    /// A secret, from the variable or from AWS Secrets Manager, by the name or ARN in the variable of that name
    /// with `_ID`. A secret in Secrets Manager is read while the program runs, so that it is stored nowhere else
    /// and a rotation needs no deploy; the function needs `secretsmanager:GetSecretValue` on it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when neither variable is set, or the secret in the first cannot be used.
    pub fn secret<T: Credential>(&self, variable: &'static str) -> Result<Secret<T>, ConfigError> {
        Secret::from_env(self, variable)
    }

    /// How a client of an AWS SDK reaches AWS. `needed_for` is the variable that names something there.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] about `needed_for`, when the environment does not say how.
    pub fn aws(&self, needed_for: impl Into<Cow<'static, str>>) -> Result<&SdkConfig, ConfigError> {
        self.connected()
            .map_err(|error| ConfigError::unusable(needed_for, format!("it needs AWS, and {error}")))
    }

    /// How a client of DynamoDB reaches the stack's tables.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the environment does not say how AWS is reached.
    pub fn tables(&self) -> Result<&SdkConfig, ConfigError> {
        match &self.tables {
            Some(tables) => Ok(tables),
            None => self.connected(),
        }
    }

    fn connected(&self) -> Result<&SdkConfig, ConfigError> {
        if let Some(aws) = self.aws.get() {
            return Ok(aws);
        }
        let made = if let Some(connect) = &self.connect {
            connect()?
        } else {
            let lookup = self.lookup.clone();
            sdk_config(move |name| lookup(name))?
        };
        Ok(self.aws.get_or_init(|| made))
    }

    /// A client for the HTTP API at `address`. It gives up on a call after
    /// [`LONGEST_CALL`](learnink_webhook::router::LONGEST_CALL), and follows no redirects: another host would get the
    /// request's credentials and personal data. It keeps its connections, so keep the client.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when this machine has no root certificates.
    ///
    /// # Panics
    ///
    /// When the program has not called [`install_tls_provider`](crate::install_tls_provider).
    #[cfg(feature = "http")]
    pub fn http_client(&self, address: &crate::HttpsUrl) -> Result<reqwest::Client, ConfigError> {
        let client = crate::http::builder(address, learnink_webhook::router::LONGEST_CALL).build();
        client.map_err(|_| {
            ConfigError::unusable(
                "SSL_CERT_FILE",
                "no root certificates were found; set it to a file that has them",
            )
        })
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_typed_and_its_error_names_it_and_never_its_value() {
        let env = Env::of([("A", " 7\n"), ("B", "pigeons"), ("C", " ")]);
        assert_eq!(env.optional("A"), Ok(Some(7_u8)));
        assert_eq!(env.optional::<u8>("C"), Ok(None));
        assert_eq!(env.required("B", "a word"), Ok("pigeons".to_owned()));
        let error = env.optional::<u8>("B").unwrap_err().to_string();
        assert_eq!(error, "B cannot be used: invalid digit found in string");
        let error = env.required::<u8>("D", "a number").unwrap_err().to_string();
        assert_eq!(error, "D is not set; set it to a number");
    }

    #[test]
    fn aws_is_asked_for_by_who_needs_it_alone() {
        let env = Env::of([]);
        let error = env.aws("SHOP_BUCKET").unwrap_err().to_string();
        assert!(
            error.starts_with("SHOP_BUCKET cannot be used: it needs AWS, and AWS_REGION is not set"),
            "{error}"
        );
        let elsewhere = sdk_config(|name| (name == "AWS_REGION").then(|| "local".to_owned())).unwrap();
        let env = env.with_tables(elsewhere);
        assert_eq!(env.tables().unwrap().region().unwrap().as_ref(), "local");
        assert!(env.aws("SHOP_BUCKET").is_err());
        let env = env.with_variables([("AWS_REGION", "eu-west-1".to_owned())]);
        assert_eq!(env.aws("SHOP_BUCKET").unwrap().region().unwrap().as_ref(), "eu-west-1");
    }
}
