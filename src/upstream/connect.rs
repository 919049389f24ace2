//! From a backend to a byte stream: TCP, then TLS with verification always on.
//!
//! TCP is a `tower::Service`, so that a test or an embedder can put an in-memory peer in its place; TLS is laid over whatever it
//! gives. It is boxed: connecting is rare, and one virtual call per read or write disappears beside the system call it makes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::{RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::error::{ConnectError, SendErrorKind};
use super::names::Names;
use crate::backend::{Backend, Identity, Protocol};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Any byte stream.
pub type BoxIo = Box<dyn Io>;

/// Where a [`Connector`] is to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// The whole time that connecting may take, so that several addresses can share it; it is enforced outside as well.
    pub within: Duration,
    /// Whether TLS is laid over the stream, so that its certificate tells who is there.
    pub tls: bool,
}

/// What opens byte streams.
pub type Connector = BoxCloneSyncService<Target, BoxIo, io::Error>;

/// The connector over TCP, with Nagle's algorithm off and keep-alive probes on. `may_open` is asked before every socket and every lookup
/// of a name; what it fails with is why there is no connection.
pub fn tcp(names: Names, may_open: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Connector {
    BoxCloneSyncService::new(Tcp { names, may_open: Arc::new(may_open) })
}

/// The machine's trusted certificates. Unreadable ones are left out; a store that stays empty makes every https backend without a
/// CA of its own fail, as [`SendErrorKind::Tls`].
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system certificate could not be loaded");
    }
    let (_, refused) = roots.add_parsable_certificates(found.certs);
    if refused > 0 {
        tracing::debug!(refused, "system certificates that do not parse were left out");
    }
    roots
}

/// Connects to a backend and, for https, shakes hands, all within the backend's connect timeout.
pub(super) async fn establish(connector: &Connector, tls: &Tls, backend: &Backend) -> Result<BoxIo, ConnectError> {
    let within = backend.timeouts.connect;
    let connecting = async {
        let origin = &backend.origin;
        let target = Target { host: Arc::clone(&origin.host), port: origin.port, within, tls: origin.tls };
        let stream = connector.clone().oneshot(target).await.map_err(ConnectError::from_io)?;
        if origin.tls { tls.handshake(backend, stream).await } else { Ok(stream) }
    };
    timeout(within, connecting).await.unwrap_or_else(|elapsed| Err(ConnectError::new(SendErrorKind::ConnectTimeout, elapsed)))
}

/// Before the first keep-alive probe on a silent connection: below the minutes after which address translators forget one, so
/// that a model may think for long before its first byte.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(45);
/// Between probes that go unanswered.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// The share of the connect timeout that an address gets which is not the last one is never below this (a slow but honest answer
/// from the other side of the world takes two round trips of 300 ms with one loss between).
const LEAST_PER_ADDRESS: Duration = Duration::from_millis(1500);

#[derive(Clone)]
struct Tcp {
    names: Names,
    may_open: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
}

impl tower::Service<Target> for Tcp {
    type Response = BoxIo;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<BoxIo>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let tcp = self.clone();
        Box::pin(async move {
            let stream = tcp.connect_any(&target).await?;
            stream.set_nodelay(true)?;
            let probes = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
            SockRef::from(&stream).set_tcp_keepalive(&probes)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }
}

impl Tcp {
    /// Tries the addresses of a name in their order. Each gets an even share of the time that is left, so that one address that
    /// swallows packets (IPv6 without a route, most often) cannot use up the whole of it.
    async fn connect_any(&self, target: &Target) -> io::Result<TcpStream> {
        let until = tokio_now() + target.within;
        let addresses = self.addresses(target).await?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            let left = until.saturating_duration_since(tokio_now());
            let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let deadline = tokio_now() + share.max(LEAST_PER_ADDRESS).min(left);
            // Asked again, since others may have opened theirs while the name was looked up.
            (self.may_open)()?;
            match timeout_at(deadline, TcpStream::connect(SocketAddr::new(*address, target.port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(elapsed) => failure = io::Error::new(io::ErrorKind::TimedOut, elapsed),
            }
        }
        self.names.doubt(&target.host);
        Err(failure)
    }

    async fn addresses(&self, target: &Target) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = target.host.parse() {
            return Ok(vec![address]);
        }
        (self.may_open)()?;
        match self.names.addresses(&target.host, target.within, target.tls).await {
            Ok(addresses) => Ok(addresses),
            Err(error) => {
                // A resolver that could open nothing says only that the name is unknown, and the backend would be blamed.
                (self.may_open)()?;
                Err(error)
            }
        }
    }
}

/// How long one round trip to a host takes, seen by connecting to it over TCP; nothing is sent. `None` when nobody answered in time.
/// Looking up its name is no part of it, and is done once for all who want that name.
pub async fn round_trip(names: &Names, target: &Target) -> Option<Duration> {
    let Target { host, port, within, tls } = target;
    let addresses = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => timeout(*within, names.addresses(host, *within, *tls)).await.ok()?.ok()?,
    };
    for address in addresses.into_iter().take(ADDRESSES_PROBED) {
        let begun = tokio_now();
        if let Ok(Ok(_)) = timeout(*within, TcpStream::connect(SocketAddr::new(address, *port))).await {
            return Some(begun.elapsed());
        }
    }
    None
}

/// Addresses of a name that are tried for that: one of each kind.
const ADDRESSES_PROBED: usize = 2;

/// The runtime's clock, for the runtime's timers only.
fn tokio_now() -> Instant {
    Instant::now()
}

/// Configurations kept at most: one for each set of certificates, identity and protocol ever used. Beyond it the oldest goes, and with it
/// nothing but the sessions to resume.
const MAX_CONFIGS: usize = 64;

/// Client side of TLS: one configuration for each (trusted certificates, own identity, protocol), shared by all cores so that sessions are
/// resumed whichever core reconnects. The lock is taken once per handshake, for the time of a short scan.
pub(super) struct Tls {
    /// Read for the first backend that needs them: to parse a machine's 140 certificates takes 0.7 MiB for good, and a fleet behind
    /// plain http, or with a CA of its own, never looks at one.
    roots: LazyLock<Arc<RootCertStore>, ReadRoots>,
    provider: Arc<CryptoProvider>,
    configs: Mutex<Vec<(TrustKey, Arc<ClientConfig>)>>,
}

/// What reads the certificates that a backend without a CA of its own is verified by.
type ReadRoots = Box<dyn FnOnce() -> Arc<RootCertStore> + Send>;
type Authorities = Option<Arc<[CertificateDer<'static>]>>;
type TrustKey = (Authorities, Option<Arc<Identity>>, Protocol);

/// TLS 1.2 is still what some private endpoints speak; everything before it is refused.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

impl Tls {
    pub(super) fn new(roots: impl FnOnce() -> RootCertStore + Send + 'static) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = LazyLock::new(Box::new(move || Arc::new(roots())) as ReadRoots);
        Self { roots, provider, configs: Mutex::new(Vec::new()) }
    }

    async fn handshake(&self, backend: &Backend, stream: BoxIo) -> Result<BoxIo, ConnectError> {
        let failed = |error: io::Error| ConnectError::new(SendErrorKind::Tls, error);
        let name = ServerName::try_from(backend.origin.host.to_string())
            .map_err(|error| ConnectError::new(SendErrorKind::Tls, error))?;
        let connector = tokio_rustls::TlsConnector::from(self.config(backend)?);
        let stream = match connector.connect(name, stream).await {
            Ok(stream) => stream,
            Err(error) if backend.protocol == Protocol::Http2 && is_no_protocol(&error) => return Err(not_http2("nothing")),
            Err(error) => return Err(failed(error)),
        };
        match (backend.protocol, stream.get_ref().1.alpn_protocol()) {
            (Protocol::Http1, _) | (Protocol::Http2, Some(b"h2")) => Ok(Box::new(stream)),
            (Protocol::Http2, Some(_)) => Err(not_http2("http/1.1")),
            (Protocol::Http2, None) => Err(not_http2("nothing")),
        }
    }

    /// The configuration for a backend, built on first use. It fails when the backend's own certificates do not parse, the key is
    /// not that of the certificate, or there is nothing to trust at all.
    pub(super) fn config(&self, backend: &Backend) -> Result<Arc<ClientConfig>, ConnectError> {
        let key = (backend.origin.ca.clone(), backend.origin.identity.clone(), backend.protocol);
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = configs.iter().find(|(known, _)| *known == key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.build(&key)?);
        if configs.len() >= MAX_CONFIGS {
            configs.remove(0);
        }
        configs.push((key, Arc::clone(&config)));
        Ok(config)
    }

    fn build(&self, (authorities, identity, protocol): &TrustKey) -> Result<ClientConfig, ConnectError> {
        let failed = |error: rustls::Error| ConnectError::new(SendErrorKind::Tls, error);
        let roots = match authorities {
            None => Arc::clone(&self.roots),
            Some(certificates) => {
                let mut own = RootCertStore::empty();
                for certificate in certificates.iter() {
                    own.add(certificate.clone()).map_err(failed)?;
                }
                Arc::new(own)
            }
        };
        if roots.is_empty() {
            return Err(ConnectError::new(SendErrorKind::Tls, "there is no certificate to trust"));
        }
        // Sessions are resumed by rustls' own default, a store of 256 servers in memory.
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(VERSIONS)
            .map_err(failed)?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(failed)?,
        };
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            // HTTP/1.1 is offered beside it only to be told so by name instead of by a bare alert.
            Protocol::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        Ok(config)
    }
}

fn not_http2(chose: &str) -> ConnectError {
    let text = format!("`protocol: http2` was configured, but in the TLS handshake (ALPN) the backend chose {chose}");
    ConnectError::new(SendErrorKind::NotHttp2, text)
}

fn is_no_protocol(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)))
}
