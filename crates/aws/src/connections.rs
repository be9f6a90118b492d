//! HTTP/1.1 connections to AWS, each of which serves one request at a time.
//!
//! The SDK's HTTP client also serves HTTP/2 and many concurrent callers. For that it has a task for each connection,
//! another task for each answer, and timers. Here the request that uses a connection also runs it. Between two
//! requests, nothing does. hyper speaks HTTP, rustls speaks TLS, and hyper-util resolves names and connects.
//! `docs/decisions/calls-without-the-sdk.md` has the reasons and the figures.
//!
//! Proxies are not used, whatever `HTTPS_PROXY` says. The SDK's client does not use one either, unless it is told to.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// A connection that was idle for longer is not used again. Load balancers and NAT gateways forget idle connections,
/// and a request on one that is forgotten waits until its time is up. The SDK's client has the same limit.
const LONGEST_IDLE: Duration = Duration::from_secs(90);

/// A longer answer is an error. The longest one that is read is a secret, which has 64 KiB at most.
/// Source: AWS Secrets Manager user guide, "AWS Secrets Manager quotas".
const LARGEST_ANSWER_BYTES: usize = 1024 * 1024;

/// TLS with the root certificates, which are read once. `None` if this machine has none.
static TLS: OnceLock<Option<TlsConnector>> = OnceLock::new();

type RequestBody = Full<Bytes>;

/// The connections of one caller. Clones share them. They suit callers that make few requests at a time, of which none
/// has a large answer.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Shared>);

struct Shared {
    tcp: Tcp,
    /// The connections that no request uses. The last one to become idle is the first to be used again.
    idle: Mutex<Vec<Connection>>,
}

/// The reason for which a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the endpoint is not an HTTP or HTTPS address")]
    Endpoint,
    #[error("cannot reach the endpoint")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no root certificates were found")]
    NoRoots,
    #[error("cannot agree on TLS with the endpoint")]
    Tls(#[source] io::Error),
    #[error("the connection broke, or its server does not speak HTTP")]
    Broken(#[source] hyper::Error),
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, idle: Mutex::default() }
    }
}

impl Connections {
    /// Reads the root certificates, so that a function does it when it starts and not in its first request.
    pub(crate) fn prepare() {
        tls();
    }

    /// The value of the `host` header for a URL; `None` if it is not an HTTP or HTTPS address.
    pub(crate) fn host(uri: &Uri) -> Option<String> {
        Some(Origin::of(uri)?.host().to_owned())
    }

    /// Sends the request, which has its `host` header, on an idle connection or on a new one, and returns once the head of
    /// the answer has arrived. It is sent a second time only if nothing of it was written the first time. It has no time
    /// limit of its own: drop it, and its connection is closed.
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<Answer, RequestError> {
        let origin = Origin::of(request.uri()).ok_or(RequestError::Endpoint)?;
        let mut unsent = with_path_alone(request);
        loop {
            let (mut connection, is_new) = match self.0.take_idle(&origin) {
                Some(connection) => (connection, false),
                None => (self.0.connect(origin.clone()).await?, true),
            };
            match connection.exchange(unsent).await {
                Ok(answer) => {
                    let (head, incoming) = answer.into_parts();
                    let (status, headers, shared) = (head.status, head.headers, self.0.clone());
                    return Ok(Answer { status, headers, incoming, connection, shared });
                }
                Err(mut error) => match error.take_message() {
                    Some(request) if !is_new => unsent = request,
                    _ => return Err(RequestError::Broken(error.into_error())),
                },
            }
        }
    }
}

impl Shared {
    /// An idle connection to this origin. Those that cannot be used any more are dropped.
    fn take_idle(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(at) = idle.iter().rposition(|connection| connection.origin == *origin) {
            let connection = idle.remove(at);
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, origin: Origin) -> Result<Connection, RequestError> {
        let connected = self.tcp.clone().call(origin.uri()?).await;
        let tcp = connected.map_err(|error| RequestError::Unreachable(error.into()))?.into_inner();
        let (tcp, socket) = with_handle(tcp).map_err(|error| RequestError::Unreachable(error.into()))?;
        let stream: Box<dyn Stream> = if origin.is_tls {
            let tls = tls().ok_or(RequestError::NoRoots)?;
            Box::new(tls.connect(origin.server_name()?, tcp).await.map_err(RequestError::of_tls)?)
        } else {
            Box::new(tcp)
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (requests, io) = handshake.map_err(RequestError::Broken)?;
        Ok(Connection { origin, requests, io: Some(io), socket, idle_since: Instant::now() })
    }
}

fn tls() -> Option<&'static TlsConnector> {
    TLS.get_or_init(tls_connector).as_ref()
}

/// TLS with the system's root certificates, or those that `SSL_CERT_FILE` names.
fn tls_connector() -> Option<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return None;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(TlsConnector::from(Arc::new(config)))
}

/// The stream, and a second handle of the same socket.
fn with_handle(tcp: TcpStream) -> io::Result<(TcpStream, net::TcpStream)> {
    let socket = tcp.into_std()?;
    let handle = socket.try_clone()?;
    Ok((TcpStream::from_std(socket)?, handle))
}

/// The request as it is written to its origin: only a path is left of its URL.
fn with_path_alone(mut request: Request<RequestBody>) -> Request<RequestBody> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    request
}

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    is_tls: bool,
    authority: Authority,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        Some(Self { is_tls, authority: uri.authority()?.clone() })
    }

    /// The value of the `host` header: the port is left out if it is the scheme's own.
    fn host(&self) -> &str {
        match (self.is_tls, self.authority.port_u16()) {
            (true, Some(443)) | (false, Some(80)) => self.authority.host(),
            _ => self.authority.as_str(),
        }
    }

    fn uri(&self) -> Result<Uri, RequestError> {
        let scheme = if self.is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query("/").build();
        uri.map_err(|_| RequestError::Endpoint)
    }

    /// The name that the certificate is for. An IPv6 address has brackets in a URL, but not in a certificate.
    fn server_name(&self) -> Result<ServerName<'static>, RequestError> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host.to_owned()).map_err(|_| RequestError::Endpoint)
    }
}

/// A stream of bytes, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection that serves one request at a time. Dropping it closes it.
struct Connection {
    origin: Origin,
    requests: http1::SendRequest<RequestBody>,
    /// `None` once it has ended.
    io: Option<Io>,
    /// The same socket, for [`Connection::is_usable`].
    socket: net::TcpStream,
    idle_since: Instant,
}

type Io = http1::Connection<TokioIo<Box<dyn Stream>>, RequestBody>;

impl Connection {
    /// Whether it can serve another request. If anything has arrived since the last answer, it cannot: the server
    /// has closed it while nobody looked, perhaps while the environment was frozen, or it does not speak HTTP.
    fn is_usable(&self) -> bool {
        let is_silent = || {
            let arrived = self.socket.peek(&mut [0]);
            arrived.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        self.idle_since.elapsed() < LONGEST_IDLE && is_silent()
    }

    /// Sends the request and waits for the head of the answer.
    async fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.requests.try_send_request(request));
        poll_fn(|cx| {
            run(&mut self.io, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }
}

/// Reads and writes as much as is possible now.
fn run(io: &mut Option<Io>, cx: &mut Context<'_>) {
    // Its error is passed to the request or the body as well.
    if io.as_mut().is_some_and(|io| Pin::new(io).poll(cx).is_ready()) {
        *io = None;
    }
}

/// An answer whose body is still to be read. Dropping it closes its connection.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    incoming: Incoming,
    connection: Connection,
    shared: Arc<Shared>,
}

impl Answer {
    /// The whole body; `None` if it breaks off or is too long. With `keep`, the connection then waits for another
    /// request.
    pub(crate) async fn read(mut self, keep: bool) -> Option<Vec<u8>> {
        let mut read = Vec::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame.ok()?.into_data() else { continue };
            if read.len() + data.len() > LARGEST_ANSWER_BYTES {
                return None;
            }
            read.extend_from_slice(&data);
        }
        if keep {
            // hyper notices here that the server closes it, or has sent more than the answer.
            poll_fn(|cx| {
                run(&mut self.connection.io, cx);
                std::task::Poll::Ready(())
            })
            .await;
            if self.connection.io.is_some() {
                self.connection.idle_since = Instant::now();
                self.shared.idle().push(self.connection);
            }
        }
        Some(read)
    }

    async fn frame(&mut self) -> Option<Result<http_body::Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| {
            let polled = Pin::new(&mut self.incoming).poll_frame(cx);
            if polled.is_ready() {
                return polled;
            }
            run(&mut self.connection.io, cx);
            Pin::new(&mut self.incoming).poll_frame(cx)
        })
        .await
    }
}

impl RequestError {
    /// A TLS handshake ends with an error of rustls, or because the connection breaks.
    fn of_tls(error: io::Error) -> Self {
        match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => Self::Tls(error),
            _ => Self::Unreachable(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Option<Origin> {
        Origin::of(&url.parse().unwrap())
    }

    #[test]
    fn the_host_of_a_request_has_a_port_unless_it_is_the_schemes_own() {
        for (url, host) in [
            ("https://sqs.eu-west-1.amazonaws.com/", "sqs.eu-west-1.amazonaws.com"),
            ("https://localhost:443/", "localhost"),
            ("http://localhost:80", "localhost"),
            ("http://localhost:443/", "localhost:443"),
            ("http://[::1]:4566/", "[::1]:4566"),
            ("https://[::1]/", "[::1]"),
        ] {
            assert_eq!(origin(url).unwrap().host(), host);
        }
    }

    #[test]
    fn a_certificate_names_an_address_without_brackets() {
        for (url, name) in [("https://[::1]:443/", "::1"), ("https://127.0.0.1/", "127.0.0.1")] {
            assert_eq!(origin(url).unwrap().server_name().unwrap().to_str(), name);
        }
    }

    #[test]
    fn only_http_and_https_have_an_origin() {
        for url in ["ftp://localhost/", "localhost:443", "/path"] {
            assert_eq!(origin(url), None, "{url}");
        }
    }

    #[test]
    fn a_request_is_written_with_its_path_alone() {
        for (url, path) in [("https://localhost:8443", "/"), ("https://localhost:8443/a?b=c", "/a?b=c")] {
            let request = Request::builder().uri(url).body(RequestBody::default()).unwrap();
            assert_eq!(with_path_alone(request).uri(), path);
        }
    }
}
