//! One GET with everything bounded: the time, the answer's size, and no redirects.
//!
//! A question every few minutes needs no pool and no client library; a connection for each is simpler to reason about.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<String>,
    pub(super) body: Bytes,
}

/// Why there was none; the words have neither address nor header in them.
pub(super) type Failure = &'static str;

/// Asks, and waits for an answer of at most `limit` bytes.
pub(super) async fn get(place: &Place, request: Request<Empty<Bytes>>, limit: usize) -> Result<Answer, Failure> {
    tokio::time::timeout(TIMEOUT, exchange(place, request, limit)).await.unwrap_or(Err("no answer within 10 s"))
}

async fn exchange(place: &Place, request: Request<Empty<Bytes>>, limit: usize) -> Result<Answer, Failure> {
    let socket = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(|_| "cannot connect")?;
    if !place.tls {
        return over(socket, request, limit).await;
    }
    let name = ServerName::try_from(place.host.clone()).map_err(|_| "the host is no name that a certificate can have")?;
    let socket = TlsConnector::from(tls()?).connect(name, socket).await.map_err(|_| "the TLS handshake failed")?;
    over(socket, request, limit).await
}

async fn over<S>(socket: S, request: Request<Empty<Bytes>>, limit: usize) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|_| "cannot speak HTTP")?;
    let ask = async {
        let response = sender.send_request(request).await.map_err(|_| "the connection broke")?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body =
            Limited::new(response.into_body(), limit).collect().await.map_err(|_| "the answer broke off or is too large")?;
        Ok(Answer { status, retry_after, body: body.to_bytes() })
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
