//! HTTP clients, and the addresses that they may call.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};

/// An idle connection is closed after this time: servers close theirs after a minute or so, and a frozen execution
/// environment does not see it.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// The builder of a client for `address`: with our name, a limit for each call, and without redirects. What is for this
/// machine does not go through a proxy.
pub fn builder(address: &HttpsUrl, time_limit: Duration) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("learnink-webhooks/", env!("CARGO_PKG_VERSION")))
        .timeout(time_limit)
        .pool_idle_timeout(IDLE_FOR)
        // Another host would get personal data and credentials.
        .redirect(Policy::none());
    if address.is_this_machine() { builder.no_proxy() } else { builder }
}

/// An address that personal data and credentials may be sent to: `https://`, without a user name. Plain `http://`
/// is for this machine only. `Debug` shows only the host, because the rest may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpsUrl(Url);

/// The text is not such an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be an address that starts with `https://`, without a user name; plain `http://` is for this machine only"
)]
pub struct NotHttps;

impl FromStr for HttpsUrl {
    type Err = NotHttps;

    fn from_str(text: &str) -> Result<Self, NotHttps> {
        let url = Self(Url::parse(text.trim()).map_err(|_| NotHttps)?);
        let is_private = match url.0.scheme() {
            "https" => url.0.has_host(),
            "http" => url.is_this_machine(),
            _ => false,
        };
        let names_nobody = url.0.username().is_empty() && url.0.password().is_none();
        if is_private && names_nobody { Ok(url) } else { Err(NotHttps) }
    }
}

impl HttpsUrl {
    /// The address, for a request.
    pub fn url(&self) -> Url {
        self.0.clone()
    }

    /// An address below this one; each part becomes a segment of the path.
    pub fn below(&self, parts: &[&str]) -> Url {
        let mut url = self.0.clone();
        // Fails for addresses without a path, such as `mailto:`, which `from_str` refuses.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Whether it is a base address, with neither `?` nor `#`.
    pub fn is_base(&self) -> bool {
        self.0.query().is_none() && self.0.fragment().is_none()
    }

    /// Whether only this machine can have it.
    pub fn is_this_machine(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = host == "localhost" || host.ends_with(".localhost");
        is_name || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl fmt::Debug for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpsUrl").field(&self.0.host_str()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(url.parse::<HttpsUrl>().is_ok(), is_taken, "{url}");
        }
    }

    #[test]
    fn of_an_address_only_the_host_is_printed() {
        let url: HttpsUrl = "https://push.test/learnink?token=7".parse().unwrap();
        assert_eq!(format!("{url:?}"), r#"HttpsUrl(Some("push.test"))"#);
    }
}
