//! The admin address: for probes, Prometheus and people.
//!
//! It is served by the control thread, so that a scrape never takes time from a worker and answers when all of them are busy.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Shared;
use super::descriptors::Descriptors;
use super::listener::accept;
use super::status::status;
use crate::control::{ControlHandle, ReloadReport};
use crate::telemetry::metrics::Metrics;

/// Connections at once: a few probes, scrapers and people.
const CONNECTIONS: usize = 64;
/// For a head, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What the answers are made of.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) shared: Shared,
    pub(super) control: ControlHandle,
    /// Whether new requests are welcome.
    pub(super) ready: Arc<AtomicBool>,
}

/// Serves until dropped.
pub(super) async fn serve(socket: StdListener, context: Context) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin address does not work"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    // Its connections are not those of the listeners, and are not counted as such.
    let uncounted = Metrics::default();
    let take = |socket, _| {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { return };
        let context = context.clone();
        connections.spawn(async move {
            let service = service_fn(|request| respond(&context, request));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
            // What breaks off is the client's business.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            drop(place);
        });
    };
    accept(listener, tokio_util::sync::CancellationToken::new(), Descriptors::unknown(), &uncounted, take).await;
}

async fn respond(context: &Context, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let response = match request.uri().path() {
        "/healthz" if read => json(StatusCode::OK, &serde_json::json!({ "status": "ok" })),
        "/readyz" if read => readiness(context),
        "/metrics" if read => metrics(context),
        "/status" if read => json(StatusCode::OK, &status(context)),
        "/reload" if request.method() == Method::POST => reload(context).await,
        "/healthz" | "/readyz" | "/metrics" | "/status" => not_allowed("GET, HEAD"),
        "/reload" => not_allowed("POST"),
        _ => error(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics, /status and POST /reload"),
    };
    Ok(response)
}

fn readiness(context: &Context) -> Response<Full<Bytes>> {
    if context.ready.load(SeqCst) {
        json(StatusCode::OK, &serde_json::json!({ "status": "ready" }))
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "status": "draining" }))
    }
}

fn metrics(context: &Context) -> Response<Full<Bytes>> {
    let Shared { state, metrics, log, clock, .. } = &context.shared;
    let text = metrics.render(&state.load(), log, clock.wall());
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, OPENMETRICS);
    response
}

async fn reload(context: &Context) -> Response<Full<Bytes>> {
    match context.control.reload().await {
        Some(ReloadReport::Published { generation, restart }) => {
            json(StatusCode::OK, &serde_json::json!({ "generation": generation, "restart_needed": restart }))
        }
        Some(ReloadReport::Unchanged) => json(StatusCode::OK, &serde_json::json!({ "unchanged": true })),
        Some(ReloadReport::Failed(problems)) => error(StatusCode::UNPROCESSABLE_ENTITY, &problems),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
    }
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "not by this method");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": { "message": message } }))
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    // None of the values has a key that is no string, which is all that could fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
