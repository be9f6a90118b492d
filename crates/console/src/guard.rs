//! Who may use the console: the person who started `learnink dev`, in a browser or a terminal of this machine.
//!
//! Listening on loopback is not enough: a web page can send requests there, directly or by DNS rebinding, and so can
//! other accounts of this machine. One plain function, [`judge`], refuses them.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use http::header::{AUTHORIZATION, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ring::digest::{SHA256, digest};
use ring::hmac;

/// The length of the key.
const KEY_BYTES: usize = 32;

/// The file of the key, in the state folder.
pub const KEY_FILE: &str = "console-key";

/// The parameter of the link that has the key.
pub const KEY_PARAMETER: &str = "key";

/// The secret that opens the console of one state folder.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// The key of a state folder, which is made on the first call. Only the owner of the file can read it.
    ///
    /// # Errors
    ///
    /// If the file can be neither read nor made.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(KEY_FILE);
        match fs::read_to_string(&path) {
            Ok(text) if is_key(text.trim()) => return Ok(Self(text.trim().to_owned())),
            // An empty or cut file would let everybody in, or nobody.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes)?;
        let key = hex(&bytes);
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // Under another name first, so that nobody reads half a key.
        let next = path.with_extension("new");
        options.open(&next).and_then(|mut file| writeln!(file, "{key}"))?;
        fs::rename(&next, &path)?;
        Ok(Self(key))
    }

    /// The key in hexadecimal, for the link that a person opens.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn is(&self, given: &str) -> bool {
        is_same(given, &self.0)
    }
}

/// The length of the nonce of a [`Session`].
const NONCE_BYTES: usize = 32;

/// The value of the cookie: the right to use the console from its start to its end.
///
/// A browser sends the cookies of a host to every port of it, so that another server on this machine gets this value.
/// It neither reveals the key nor works at another start.
///
/// Shape: HMAC-SHA-256 with the key over a random nonce, in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct Session(String);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(***)")
    }
}

impl Session {
    /// The session of one start.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes.
    pub fn start(key: &Key) -> io::Result<Self> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce)?;
        Ok(Self::of(key, nonce))
    }

    fn of(key: &Key, nonce: [u8; NONCE_BYTES]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.0.as_bytes());
        Self(hex(hmac::sign(&key, &nonce).as_ref()))
    }

    fn is(&self, given: &str) -> bool {
        is_same(given, &self.0)
    }

    /// The cookie of this session. It is sent with no request that another page causes, and no script can read it. It
    /// ends with the browser.
    pub fn cookie(&self, port: u16) -> String {
        format!("{}={}; Path=/; HttpOnly; SameSite=Strict", cookie_name(port), self.0)
    }
}

/// Compares hashes, so that the time taken does not reveal the secret.
fn is_same(given: &str, secret: &str) -> bool {
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    hash(given).as_ref() == hash(secret).as_ref()
}

fn is_key(text: &str) -> bool {
    text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the operator's.
    Allow,
    /// The first request with the key in the URL: set the cookie and redirect.
    SetCookie,
    /// It is not, and this says why.
    Refuse(Refusal),
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host is not this machine's loopback with our port.
    #[error("this is the console of another address; open the link that `cargo dev` prints")]
    Host,
    /// A request that changes something came from another page.
    #[error("this request is not from a page of the console")]
    Origin,
    /// Without the key.
    #[error("the key is missing; open the link that `cargo dev` prints")]
    Key,
}

impl Refusal {
    /// The status of the answer. 421 says that this server is not the one that was meant.
    /// Source: RFC 9110, section 15.5.20.
    pub const fn status(self) -> u16 {
        match self {
            Self::Host => 421,
            Self::Origin => 403,
            Self::Key => 401,
        }
    }
}

/// Judges a request to the console on `port`. `key_in_url` is the value of [`KEY_PARAMETER`] in its query.
///
/// The key is accepted there and as a bearer token; the session only as a cookie.
pub fn judge(
    method: &Method,
    headers: &HeaderMap,
    key_in_url: Option<&str>,
    key: &Key,
    session: &Session,
    port: u16,
) -> Verdict {
    if !is_our_host(headers, port) {
        return Verdict::Refuse(Refusal::Host);
    }
    // A command on this machine. No page of another origin can send this header: it takes a preflight, and nothing
    // here answers one with the headers of CORS. So where the request comes from need not be asked.
    if let Some(authorization) = one(headers, &AUTHORIZATION) {
        let given = authorization.strip_prefix("Bearer ").unwrap_or_default();
        return if key.is(given) { Verdict::Allow } else { Verdict::Refuse(Refusal::Key) };
    }
    let is_safe = matches!(*method, Method::GET | Method::HEAD);
    // An allow-list: a form on another port of this host is `same-site`, and an old browser sends nothing.
    if !is_safe && one(headers, &SEC_FETCH_SITE) != Some("same-origin") {
        return Verdict::Refuse(Refusal::Origin);
    }
    let name = cookie_name(port);
    let has_cookie = cookies(headers).any(|(cookie, value)| cookie == name && session.is(value));
    match key_in_url {
        Some(given) if is_safe && key.is(given) => Verdict::SetCookie,
        _ if has_cookie => Verdict::Allow,
        _ => Verdict::Refuse(Refusal::Key),
    }
}

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the host is one of loopback's with our port. Any other name that leads here is somebody else's page that
/// wants to be of our origin (DNS rebinding).
fn is_our_host(headers: &HeaderMap, port: u16) -> bool {
    let Some(host) = one(headers, &HOST) else { return false };
    let Some((name, given)) = host.rsplit_once(':') else { return false };
    given == port.to_string()
        && ["127.0.0.1", "localhost", "[::1]"].contains(&name.to_ascii_lowercase().as_str())
}

/// The value of a header that occurs once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='))
}

/// Cookies do not know ports, so that two consoles need two names.
fn cookie_name(port: u16) -> String {
    format!("learnink-console-{port}")
}

/// The headers of every answer, whether it is allowed or not. None of them is of CORS.
///
/// Pages load only what is embedded in this program, and are not part of another page. Nothing is kept, sniffed or
/// told to a site that a link leads to.
pub fn response_headers() -> [(HeaderName, HeaderValue); 7] {
    let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    [
        header(
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        header("x-content-type-options", "nosniff"),
        header("referrer-policy", "no-referrer"),
        header("cache-control", "no-store"),
        header("cross-origin-resource-policy", "same-origin"),
        header("cross-origin-opener-policy", "same-origin"),
        // For browsers that do not know `frame-ancestors`.
        header("x-frame-options", "DENY"),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORT: u16 = 9001;

    fn key() -> Key {
        Key("ab".repeat(KEY_BYTES))
    }

    fn session() -> Session {
        Session::of(&key(), [1; NONCE_BYTES])
    }

    fn cookie_with(value: &str) -> (&'static str, String) {
        ("cookie", format!("a=b; {}={value}", cookie_name(PORT)))
    }

    fn own_cookie() -> (&'static str, String) {
        cookie_with(&session().0)
    }

    fn judged(method: &Method, headers: &[(&'static str, String)], key_in_url: Option<&str>) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        judge(method, &map, key_in_url, &key(), &session(), PORT)
    }

    fn host(host: &str) -> (&'static str, String) {
        ("host", host.to_owned())
    }

    fn site(site: &str) -> (&'static str, String) {
        ("sec-fetch-site", site.to_owned())
    }

    #[test]
    fn only_loopback_with_our_port_is_our_host() {
        for ours in ["127.0.0.1:9001", "localhost:9001", "[::1]:9001", "LOCALHOST:9001"] {
            assert_eq!(judged(&Method::GET, &[host(ours), own_cookie()], None), Verdict::Allow, "{ours}");
        }
        for others in [
            "evil.example:9001",
            "127.0.0.1.evil.example:9001",
            "localhost.:9001",
            "localhost",
            "127.0.0.1:9000",
            "127.0.0.1:09001",
            "0.0.0.0:9001",
            "127.0.0.2:9001",
            "::1:9001",
            "user@localhost:9001",
            "",
        ] {
            let verdict = judged(&Method::GET, &[host(others), own_cookie()], None);
            assert_eq!(verdict, Verdict::Refuse(Refusal::Host), "{others}");
        }
        let nowhere = judged(&Method::GET, &[own_cookie()], None);
        assert_eq!(nowhere, Verdict::Refuse(Refusal::Host));
        let twice = [host("localhost:9001"), host("localhost:9001"), own_cookie()];
        assert_eq!(judged(&Method::GET, &twice, None), Verdict::Refuse(Refusal::Host));
        assert_eq!(Refusal::Host.status(), 421);
    }

    #[test]
    fn what_changes_something_comes_from_a_page_of_the_console() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let with = |value: Option<&str>| {
                let mut headers = vec![host("localhost:9001"), own_cookie()];
                headers.extend(value.map(site));
                judged(&method, &headers, None)
            };
            assert_eq!(with(Some("same-origin")), Verdict::Allow);
            for other in [Some("same-site"), Some("cross-site"), Some("none"), Some(""), None] {
                assert_eq!(with(other), Verdict::Refuse(Refusal::Origin), "{method} {other:?}");
            }
        }
        assert_eq!(Refusal::Origin.status(), 403);
    }

    #[test]
    fn a_page_may_be_opened_from_anywhere_by_who_has_the_cookie() {
        for value in ["none", "cross-site", "same-site", "same-origin"] {
            let headers = [host("localhost:9001"), own_cookie(), site(value)];
            assert_eq!(judged(&Method::GET, &headers, None), Verdict::Allow);
        }
    }

    #[test]
    fn without_the_key_nothing_is_answered() {
        let refused = Verdict::Refuse(Refusal::Key);
        assert_eq!(judged(&Method::GET, &[host("localhost:9001")], None), refused);
        let posted = [host("localhost:9001"), site("same-origin")];
        assert_eq!(judged(&Method::POST, &posted, None), refused);
        for cookie in
            ["learnink-console-9001=", "learnink-console-9001=00", "other=abab", "learnink-console-9001"]
        {
            let headers = [host("localhost:9001"), ("cookie", cookie.to_owned())];
            assert_eq!(judged(&Method::GET, &headers, None), refused, "{cookie}");
        }
        // Another console's cookie.
        let other = ("cookie", format!("learnink-console-9002={}", session().0));
        assert_eq!(judged(&Method::GET, &[host("localhost:9001"), other], None), refused);
        assert_eq!(Refusal::Key.status(), 401);
    }

    #[test]
    fn the_key_in_the_link_becomes_a_cookie() {
        let at = [host("127.0.0.1:9001")];
        assert_eq!(judged(&Method::GET, &at, Some(key().expose())), Verdict::SetCookie);
        assert_eq!(judged(&Method::GET, &at, Some("00")), Verdict::Refuse(Refusal::Key));
        assert_eq!(judged(&Method::GET, &[at[0].clone(), own_cookie()], Some("00")), Verdict::Allow);
        // A form cannot bring the key along in its address.
        let posted = [host("127.0.0.1:9001"), site("same-origin")];
        assert_eq!(judged(&Method::POST, &posted, Some(key().expose())), Verdict::Refuse(Refusal::Key));
        let cookie = session().cookie(PORT);
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains(key().expose()), "{cookie}");
    }

    #[test]
    fn a_cookie_that_another_server_saw_is_of_no_use_elsewhere_or_later() {
        let refused = Verdict::Refuse(Refusal::Key);
        let at = host("localhost:9001");
        let bearer = ("authorization", format!("Bearer {}", session().0));
        assert_eq!(judged(&Method::GET, &[at.clone(), bearer], None), refused);
        assert_eq!(judged(&Method::GET, std::slice::from_ref(&at), Some(&session().0)), refused);
        // The cookie of another start, and the key itself.
        let other = Session::of(&key(), [2; NONCE_BYTES]);
        for value in [&other.0, key().expose()] {
            assert_eq!(judged(&Method::GET, &[at.clone(), cookie_with(value)], None), refused);
        }
        assert_ne!(Session::start(&key()).unwrap(), Session::start(&key()).unwrap());
        assert_eq!(format!("{:?}", session()), "Session(***)");
    }

    #[test]
    fn a_command_of_this_machine_brings_the_key_in_a_header() {
        let with = |method: &Method, authorization: &str| {
            let header = ("authorization", authorization.to_owned());
            judged(method, &[host("localhost:9001"), header], None)
        };
        let bearer = format!("Bearer {}", key().expose());
        assert_eq!(with(&Method::POST, &bearer), Verdict::Allow);
        assert_eq!(with(&Method::GET, &bearer), Verdict::Allow);
        for wrong in ["Bearer 00", "Bearer ", key().expose(), "Basic YWI="] {
            assert_eq!(with(&Method::GET, wrong), Verdict::Refuse(Refusal::Key), "{wrong}");
        }
        // Not even the cookie makes up for a wrong key.
        let headers = [host("localhost:9001"), ("authorization", "Bearer 00".to_owned()), own_cookie()];
        assert_eq!(judged(&Method::GET, &headers, None), Verdict::Refuse(Refusal::Key));
        let elsewhere = [host("evil.example:9001"), ("authorization", bearer)];
        assert_eq!(judged(&Method::GET, &elsewhere, None), Verdict::Refuse(Refusal::Host));
    }

    #[test]
    fn no_header_lets_another_origin_in_or_keeps_a_page() {
        let headers = response_headers();
        assert!(headers.iter().all(|(name, _)| !name.as_str().starts_with("access-control-")));
        let value =
            |name: &str| headers.iter().find(|(header, _)| header == name).unwrap().1.to_str().unwrap();
        assert_eq!(value("x-content-type-options"), "nosniff");
        assert_eq!(value("referrer-policy"), "no-referrer");
        assert_eq!(value("cache-control"), "no-store");
        assert_eq!(value("cross-origin-resource-policy"), "same-origin");
        let policy = value("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && policy.ends_with("; frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::of(folder.path()).unwrap();
        assert!(is_key(key.expose()));
        assert_eq!(Key::of(folder.path()).unwrap(), key);
        assert_eq!(format!("{key:?}"), "Key(***)");
        let path = folder.path().join(KEY_FILE);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "").unwrap();
        let again = Key::of(folder.path()).unwrap();
        assert!(is_key(again.expose()) && again != key);
    }

    proptest! {
        #[test]
        fn nobody_gets_in_by_chance(
            authorization in prop::option::of("[ -~]{0,80}"),
            cookie in prop::option::of("[ -~]{0,80}"),
            in_url in prop::option::of("[ -~]{0,80}"),
        ) {
            let mut headers = vec![host("localhost:9001"), site("same-origin")];
            headers.extend(authorization.map(|value| ("authorization", value)));
            headers.extend(cookie.map(|value| ("cookie", value)));
            for method in [Method::GET, Method::POST] {
                prop_assert!(matches!(judged(&method, &headers, in_url.as_deref()), Verdict::Refuse(_)));
            }
        }
    }
}
