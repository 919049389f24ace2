//! The proxy as a `tower::Service` inside a program of one's own: behind a listener that is not Windward's, with a layer around it.
//!
//! `cargo run --example embed` starts one simulated region, puts the proxy in front of it, sends one request through both and
//! prints the answer and what Windward decided.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use windward::clock::{Clock, RuntimeClock, SystemClock};
use windward::config::{self, Env, fleet::FleetPlan};
use windward::proxy::{Parts, Proxy};
use windward::state::{Snapshot, State};
use windward::telemetry::{log::AccessLog, log::Identity, metrics::Metrics};
use windward::upstream::{Names, Upstreams, system_roots, tcp};

type Error = Box<dyn std::error::Error + Send + Sync>;

struct NoFiles;

impl config::Files for NoFiles {
    fn read(&self, _: &Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// A proxy in front of one backend.
fn proxy(backend: SocketAddr) -> Result<Proxy, Error> {
    let text =
        format!("backends:\n  - {{ name: only, url: \"http://{backend}/v1\", region: aws/eu-north-1, simulated: true }}\n");
    let plan = config::load("embedded", &text, &Env::default(), &NoFiles).map_err(|errors| errors.to_string())?.plan;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let tasks = TaskTracker::new();
    Ok(Proxy::new(Parts {
        state: Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic()))),
        upstreams: Upstreams::new(tcp(Names::of_this_system(), || Ok(())), system_roots, tasks.clone(), Arc::clone(&clock)),
        log: AccessLog::off(Identity::new("embedded", 0)),
        metrics: Arc::new(Metrics::default()),
        cut: CancellationToken::new(),
        run: 0,
        tasks,
        clock,
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let fleet = mock_fleet().await?;
    let region = fleet.addresses().next().ok_or("no region")?.1;

    // Any tower layer goes around it; this one counts.
    let service = proxy(region)?.map_request(|request: http::Request<Incoming>| {
        println!("{} {}", request.method(), request.uri().path());
        request
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await?;
        let service = hyper_util::service::TowerToHyperService::new(service);
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await?;
        Ok::<_, Error>(())
    });

    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::spawn(connection);
    let body = r#"{"model":"gpt-oss-120b","max_tokens":12,"messages":[{"role":"user","content":"hello"}]}"#;
    let request = http::Request::post("/v1/chat/completions").header("host", "embedded").body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    for name in ["x-windward-backend", "x-windward-decision", "x-windward-carbon-intensity"] {
        println!("{name}: {}", response.headers().get(name).ok_or(name)?.to_str()?);
    }
    println!("{}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    fleet.shutdown().await;
    Ok(())
}

async fn mock_fleet() -> Result<windward::mock::Handle, Error> {
    let mut plan = FleetPlan::shipped().map_err(|error| error.to_string())?;
    plan.regions.truncate(1);
    Ok(windward::mock::start(&plan, Arc::new(RuntimeClock), 1).await?)
}
