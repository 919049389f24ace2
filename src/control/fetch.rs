//! One question with everything bounded: the time, the answer's size, and no redirects.
//!
//! A question every few minutes needs no pool and no client library; a connection for each is simpler to reason about.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What is waited for and read at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until the connection, TLS included, stands.
    pub(super) connect: Duration,
    /// The whole exchange.
    pub(super) total: Duration,
    /// Bytes of the answer's body.
    pub(super) body: usize,
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why there was none; the words have neither address nor header in them.
pub(super) type Failure = &'static str;

/// Asks, and waits for the whole answer. Whoever asks says the host, and what path and query are asked for.
pub(super) async fn ask(place: &Place, request: Request<Full<Bytes>>, limits: Limits) -> Result<Response<Bytes>, Failure> {
    tokio::time::timeout(limits.total, exchange(place, request, limits)).await.unwrap_or(Err("no answer in time"))
}

async fn exchange(place: &Place, request: Request<Full<Bytes>>, limits: Limits) -> Result<Response<Bytes>, Failure> {
    let connected = async {
        let socket = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(|_| "cannot connect")?;
        if !place.tls {
            return Ok(Socket::Plain(socket));
        }
        let name = ServerName::try_from(place.host.clone()).map_err(|_| "the host is no name that a certificate can have")?;
        let socket = TlsConnector::from(tls()?).connect(name, socket).await.map_err(|_| "the TLS handshake failed")?;
        Ok(Socket::Tls(Box::new(socket)))
    };
    match tokio::time::timeout(limits.connect, connected).await.unwrap_or(Err("no connection in time"))? {
        Socket::Plain(socket) => over(socket, request, limits.body).await,
        Socket::Tls(socket) => over(socket, request, limits.body).await,
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn over<S>(socket: S, request: Request<Full<Bytes>>, limit: usize) -> Result<Response<Bytes>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|_| "cannot speak HTTP")?;
    let ask = async {
        let (head, body) = sender.send_request(request).await.map_err(|_| "the connection broke")?.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(|_| "the answer broke off or is too large")?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(ask, connection);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        // The connection may end in the same moment as the answer.
        _ = &mut connection => ask.await,
    }
}

fn tls() -> Result<Arc<ClientConfig>, Failure> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
        Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    });
    config.clone().ok_or("TLS is not available")
}
