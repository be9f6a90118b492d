//! The receiver's HTTP client under the SDK: HTTP/1.1 connections, each of which serves one request at a time.
//!
//! The SDK's own client also serves HTTP/2 and many concurrent callers. For that it has a task for each connection,
//! another task for each answer, and timers. Here the request that uses a connection also runs it. Between two
//! requests, nothing does. hyper speaks HTTP, rustls speaks TLS, and hyper-util resolves names and connects.
//! `docs/decisions/own-connections.md` has the reasons and the figures.
//!
//! Proxies are not used, whatever `HTTPS_PROXY` says. The SDK's client does not use one either, unless it is told to.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::ErrorKind;
use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// A connection that was idle for longer is not used again. Load balancers and NAT gateways forget idle connections,
/// and a request on one that is forgotten waits until its time is up. The SDK's client has the same limit.
const LONGEST_IDLE: Duration = Duration::from_secs(90);

/// A longer answer is an error. The longest one that the receiver reads is a secret, which has 64 KiB at most.
/// Source: AWS Secrets Manager user guide, "AWS Secrets Manager quotas".
const LARGEST_ANSWER_BYTES: usize = 1024 * 1024;

/// The connections to AWS, shared by all clients that are made with them: an HTTP client for
/// [`sdk_config_over`](crate::sdk_config_over). It suits callers that make few requests at a time, of which none has a
/// large answer.
#[derive(Clone, Default)]
pub struct Connections(Arc<Shared>);

struct Shared {
    tcp: Tcp,
    /// `None` if this machine has no root certificates.
    tls: OnceLock<Option<TlsConnector>>,
    /// The connections that no request uses. The last one to become idle is the first to be used again.
    idle: Mutex<Vec<Connection>>,
}

/// How long a request may wait, as the SDK's configuration says.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Until there is a connection.
    connect: Option<Duration>,
    /// Until the first byte of the answer.
    read: Option<Duration>,
}

/// Sends requests within [`Limits`].
struct Connector {
    shared: Arc<Shared>,
    limits: Limits,
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the endpoint is not an HTTP or HTTPS address")]
    Endpoint,
    #[error("cannot reach the endpoint")]
    Unreachable(#[source] BoxError),
    #[error("no answer from the endpoint in time")]
    TimedOut,
    #[error("no root certificates were found")]
    NoRoots,
    #[error("cannot agree on TLS with the endpoint")]
    Tls(#[source] io::Error),
}

/// No first byte of an answer came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer in time")]
struct AnswerTimedOut;

/// An answer that is longer than [`LARGEST_ANSWER_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {LARGEST_ANSWER_BYTES} bytes")]
struct AnswerTooLarge;

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, tls: OnceLock::new(), idle: Mutex::default() }
    }
}

impl HttpClient for Connections {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let limits = Limits { connect: settings.connect_timeout(), read: settings.read_timeout() };
        SharedHttpConnector::new(Connector { shared: self.0.clone(), limits })
    }

    /// Reads the root certificates, so that a function does it when it starts and not in its first request.
    fn validate_base_client_config(
        &self,
        _: &RuntimeComponentsBuilder,
        _: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.tls();
        Ok(())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (shared, limits) = (self.shared.clone(), self.limits);
        HttpConnectorFuture::new(async move { shared.send(request, limits).await })
    }
}

impl Shared {
    /// Sends the request on an idle connection, or on a new one. It is sent a second time only if nothing of it was
    /// written the first time. Everything else that can be tried again is left to the SDK, which knows what can.
    async fn send(
        self: Arc<Self>,
        request: HttpRequest,
        limits: Limits,
    ) -> Result<HttpResponse, ConnectorError> {
        let capture = request.extension::<CaptureSmithyConnection>().cloned();
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let origin = Origin::of(request.uri()).ok_or(ConnectError::Endpoint)?;
        let mut unsent = addressed(request, &origin)?;
        loop {
            let (mut connection, is_new) = match self.take_idle(&origin) {
                Some(connection) => (connection, false),
                None => (
                    within(limits.connect, self.connect(origin.clone()))
                        .await
                        .ok_or(ConnectError::TimedOut)??,
                    true,
                ),
            };
            if let Some(capture) = &capture {
                let is_poisoned = connection.is_poisoned.clone();
                capture.set_connection_retriever(move || Some(metadata(is_poisoned.clone())));
            }
            let sent = within(limits.read, connection.exchange(unsent)).await;
            match sent.ok_or_else(|| ConnectorError::timeout(AnswerTimedOut.into()))? {
                Ok(answer) => return connection.into_answer(answer, self),
                Err(mut error) => match error.take_message() {
                    Some(request) if !is_new => unsent = request,
                    _ => return Err(broken(error.into_error())),
                },
            }
        }
    }

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

    async fn connect(&self, origin: Origin) -> Result<Connection, ConnectError> {
        let connected = self.tcp.clone().call(origin.uri()?).await;
        let tcp = connected.map_err(|error| ConnectError::Unreachable(error.into()))?.into_inner();
        let (tcp, socket) = with_handle(tcp).map_err(|error| ConnectError::Unreachable(error.into()))?;
        let stream: Box<dyn Stream> = if origin.is_tls {
            let tls = self.tls().ok_or(ConnectError::NoRoots)?;
            Box::new(tls.connect(origin.server_name()?, tcp).await.map_err(ConnectError::of_tls)?)
        } else {
            Box::new(tcp)
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (requests, io) = handshake.map_err(|error| ConnectError::Unreachable(error.into()))?;
        Ok(Connection {
            origin,
            requests,
            io: Some(io),
            socket,
            is_poisoned: Arc::default(),
            idle_since: Instant::now(),
        })
    }

    fn tls(&self) -> Option<&TlsConnector> {
        self.tls.get_or_init(tls_connector).as_ref()
    }
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

/// The future's result, or `None` if it takes longer than the limit.
async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// What the SDK learns about a connection: how to make it close after an answer that another server may not give.
fn metadata(is_poisoned: Arc<AtomicBool>) -> ConnectionMetadata {
    let poison = move || is_poisoned.store(true, Ordering::Relaxed);
    ConnectionMetadata::builder().proxied(false).poison_fn(poison).build()
}

/// The request as it is written to the origin: with only a path, and with a host.
fn addressed(mut request: Request<SdkBody>, origin: &Origin) -> Result<Request<SdkBody>, ConnectorError> {
    if !request.headers().contains_key(HOST) {
        let host =
            HeaderValue::from_str(origin.host()).map_err(|error| ConnectorError::user(error.into()))?;
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok(request)
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

    fn uri(&self) -> Result<Uri, ConnectError> {
        let scheme = if self.is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query("/").build();
        uri.map_err(|_| ConnectError::Endpoint)
    }

    /// The name that the certificate is for. An IPv6 address has brackets in a URL, but not in a certificate.
    fn server_name(&self) -> Result<ServerName<'static>, ConnectError> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Endpoint)
    }
}

/// A stream of bytes, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection that serves one request at a time. Dropping it closes it.
struct Connection {
    origin: Origin,
    requests: http1::SendRequest<SdkBody>,
    /// `None` once it has ended.
    io: Option<http1::Connection<TokioIo<Box<dyn Stream>>, SdkBody>>,
    /// The same socket, for [`Connection::is_usable`].
    socket: net::TcpStream,
    /// Whether the SDK has asked for another connection.
    is_poisoned: Arc<AtomicBool>,
    idle_since: Instant,
}

impl Connection {
    /// Whether it can serve another request. If anything has arrived since the last answer, it cannot: the server
    /// has closed it while nobody looked, perhaps while the environment was frozen, or it does not speak HTTP.
    fn is_usable(&self) -> bool {
        let is_silent = || {
            let arrived = self.socket.peek(&mut [0]);
            arrived.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        !self.is_poisoned.load(Ordering::Relaxed) && self.idle_since.elapsed() < LONGEST_IDLE && is_silent()
    }

    /// Sends the request and waits for the head of the answer.
    async fn exchange(
        &mut self,
        request: Request<SdkBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<SdkBody>>> {
        let mut answer = pin!(self.requests.try_send_request(request));
        poll_fn(|cx| {
            run(&mut self.io, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// The answer for the SDK. The connection becomes idle once the body was read to its end.
    fn into_answer(
        self,
        answer: Response<Incoming>,
        shared: Arc<Shared>,
    ) -> Result<HttpResponse, ConnectorError> {
        let (head, incoming) = answer.into_parts();
        let body = AnswerBody { incoming, connection: Some(self), shared, bytes: 0 };
        let answer = Response::from_parts(head, SdkBody::from_body_1_x(body));
        HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
    }
}

/// Reads and writes as much as is possible now.
fn run(io: &mut Option<http1::Connection<TokioIo<Box<dyn Stream>>, SdkBody>>, cx: &mut Context<'_>) {
    // Its error is passed to the request or the body as well.
    if io.as_mut().is_some_and(|io| Pin::new(io).poll(cx).is_ready()) {
        *io = None;
    }
}

/// The body of an answer, which runs the connection that it comes from.
struct AnswerBody {
    incoming: Incoming,
    /// `None` once the body has ended.
    connection: Option<Connection>,
    shared: Arc<Shared>,
    bytes: usize,
}

impl AnswerBody {
    /// Keeps the connection for another request, if it is still open.
    fn release(&mut self, cx: &mut Context<'_>) {
        let Some(mut connection) = self.connection.take() else { return };
        // hyper notices here that the server closes it, or has sent more than the answer.
        run(&mut connection.io, cx);
        if connection.io.is_some() {
            connection.idle_since = Instant::now();
            self.shared.idle().push(connection);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if polled.is_pending() {
            if let Some(connection) = &mut this.connection {
                run(&mut connection.io, cx);
            }
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                this.release(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.connection = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.bytes += frame.data_ref().map_or(0, Bytes::len);
                if this.bytes > LARGEST_ANSWER_BYTES {
                    this.connection = None;
                    return Poll::Ready(Some(Err(AnswerTooLarge.into())));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // Never early, so that the body is read to its end and the connection can be kept.
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl ConnectError {
    /// A TLS handshake ends with an error of rustls, or because the connection breaks.
    fn of_tls(error: io::Error) -> Self {
        match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => Self::Tls(error),
            _ => Self::Unreachable(error.into()),
        }
    }
}

impl From<ConnectError> for ConnectorError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable(_) => Self::io(error.into()),
            ConnectError::TimedOut => Self::timeout(error.into()),
            // Without a kind, so that it is not tried again.
            ConnectError::Endpoint | ConnectError::NoRoots | ConnectError::Tls(_) => {
                Self::other(error.into(), None)
            }
        }
    }
}

/// A connection broke, or its server does not speak HTTP, before the head of the answer was read.
fn broken(error: hyper::Error) -> ConnectorError {
    if error.is_user() {
        return ConnectorError::user(error.into());
    }
    ConnectorError::other(error.into(), Some(ErrorKind::TransientError))
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
    fn a_request_is_written_with_its_path_and_its_host() {
        let addressed = |uri: &str, host: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let request = request.body(SdkBody::empty()).unwrap();
            let request = addressed(request, &origin("https://localhost:8443").unwrap()).unwrap();
            (request.uri().to_string(), request.headers()[HOST].to_str().unwrap().to_owned())
        };
        let expected = |uri: &str, host: &str| (uri.to_owned(), host.to_owned());
        assert_eq!(addressed("https://localhost:8443", None), expected("/", "localhost:8443"));
        assert_eq!(addressed("https://localhost:8443/a?b=c", None), expected("/a?b=c", "localhost:8443"));
        assert_eq!(addressed("https://localhost:8443/", Some("signed")), expected("/", "signed"));
    }
}
