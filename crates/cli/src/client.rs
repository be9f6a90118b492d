//! HTTP clients.

use std::net::Ipv4Addr;
use std::time::Duration;

/// A client for `url`, whose calls end after `time_limit`. This machine is reached without the environment's proxy, and names under `localhost` mean
/// this machine, which some resolvers do not know (RFC 6761, section 6.3).
pub(crate) fn client(url: &reqwest::Url, time_limit: Duration) -> reqwest::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder().timeout(time_limit);
    if is_this_machine(url) {
        client = client.no_proxy();
    }
    if let Some(host) = url.host_str().filter(|host| host.ends_with(".localhost")) {
        client = client.resolve(host, (Ipv4Addr::LOCALHOST, 0).into());
    }
    client.build()
}

/// Whether only this machine can have the address.
pub(crate) fn is_this_machine(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    matches!(host, "127.0.0.1" | "localhost" | "[::1]") || host.ends_with(".localhost")
}
