//! The file as meant: what [`super::load`] makes of a configuration. It cannot be wrong; every reference is an index, every header
//! a `HeaderValue`, every limit a number.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use serde::Serialize;

use super::network::Network;
use super::shown::Shown;
use crate::backend::{Backend, BackendId, Secret};
use crate::grid::{Basis, GridZone, Reading, Signal};
use crate::key::Keys;
use crate::live::{Prior, RetryLimits};
use crate::policy::Policy;
use crate::route::Route;
use crate::tables::{EnergyTable, Place};

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What can only change with a restart.
    pub boot: Boot,
    /// Where carbon readings come from.
    pub carbon: CarbonPlan,
    /// Energy coefficients, the file's before the shipped ones.
    pub energy: Arc<EnergyTable>,
    /// Grid zones of all backends; a `ZoneId` is an index.
    pub zones: Vec<GridZone>,
    /// Backends; a `BackendId` is an index.
    pub backends: Vec<Arc<Backend>>,
    /// By backend: the client's names of its models (`*` for any) and what is believed of each.
    pub models: Vec<Vec<(Arc<str>, Prior)>>,
    /// Fields in which some backend has its credential and that are not withheld anyway: a client's own are not for the others. Most
    /// plans have none.
    pub credential_fields: Box<[HeaderName]>,
    /// Routes in the file's order.
    pub routes: Vec<Route>,
    /// Names of route and model of every flow (`*` for models that nobody lists); a `FlowId` is an index.
    pub flows: Vec<(Arc<str>, Arc<str>)>,
    /// Policies, with the implied one last where the file has none of its name; a `PolicyId` is an index.
    pub policies: Vec<Arc<Policy>>,
    /// Who may use the routes; without any, everybody.
    pub keys: Keys,
    /// What answers may say of where a request ran, the first of a name counts.
    pub geographies: Vec<Place>,
    /// Limits of every request.
    pub limits: Limits,
    /// The answer to `GET /v1/models`, rendered once, in the order of the routes' names; one per route, by index.
    pub model_lists: Vec<Bytes>,
    /// Hash of the file's text, so that an unchanged file is not loaded again.
    pub text_hash: u64,
}

impl Plan {
    /// The backend of that id.
    pub fn backend(&self, id: BackendId) -> &Arc<Backend> {
        #[expect(clippy::indexing_slicing, reason = "ids are only made by the plan that holds the backend")]
        &self.backends[id.index()]
    }

    /// The models a backend serves, each with what is believed of it before it was used.
    pub fn priors(&self, id: BackendId) -> impl Iterator<Item = (Arc<str>, Prior)> {
        self.models.get(id.index()).into_iter().flatten().cloned()
    }
}

/// What a listener does with TLS.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// What the two held when the plan was made.
    pub shown: Shown,
}

/// The same files, whatever they hold: what is in them is renewed without a restart.
impl PartialEq for ListenerTls {
    fn eq(&self, other: &Self) -> bool {
        (&self.certificate, &self.key) == (&other.certificate, &other.key)
    }
}

impl Eq for ListenerTls {}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// TLS with ALPN h2 and http/1.1; without it HTTP/1.1 and HTTP/2 by prior knowledge.
    pub tls: Option<ListenerTls>,
    /// Proxies whose word on their own clients is taken.
    pub trusted_proxies: Vec<Network>,
    /// How connections are spread over the workers.
    pub balance: Balance,
}

impl Listener {
    /// One at an address, and all else as it is when left out.
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, tls: None, trusted_proxies: Vec::new(), balance: Balance::Kernel }
    }
}

/// How the connections of a listener are spread over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each worker accepts from a socket of its own, and the kernel chooses by a hash of the addresses: cheapest, and even for many
    /// connections.
    #[default]
    Kernel,
    /// One worker accepts for all and hands the connections out in turns: even for a few that stay for long, as those of HTTP/2 do.
    RoundRobin,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output (`-`).
    Stdout,
    /// A file, appended to and reopened on SIGUSR1.
    File(PathBuf),
}

/// Other replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersPlan {
    /// Where they reach this one, by UDP.
    pub listen: SocketAddr,
    /// Host and port of the others, a name for all its addresses.
    pub others: Vec<(Arc<str>, u16)>,
    /// What all of them know.
    pub secret: Secret,
    /// Where this one is; empty where nobody said.
    pub site: Arc<str>,
    /// Between two messages on what is in flight.
    pub fast: Duration,
    /// Between two on what was learned.
    pub slow: Duration,
}

/// What can only change with a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Listening sockets, at least one.
    pub listeners: Vec<Listener>,
    /// Admin address.
    pub admin: Option<SocketAddr>,
    /// Worker threads; one per core unless the file says otherwise.
    pub workers: Option<u16>,
    /// Access log.
    pub access_log: LogTarget,
    /// Other replicas; `None` where it runs alone.
    pub peers: Option<PeersPlan>,
    /// The file in which what was learned outlives a restart.
    pub state: Option<PathBuf>,
    /// From SIGTERM until the listeners close, so that load balancers see readiness go first.
    pub drain_delay: Duration,
    /// From then until open streams are cut.
    pub drain_deadline: Duration,
}

/// The keys whose change between two files needs a restart, as the file spells them.
pub fn boot_changes(old: &Boot, new: &Boot) -> Vec<&'static str> {
    // Taken apart, so that a new field cannot be forgotten here.
    let Boot { listeners, admin, workers, access_log, peers, state, drain_delay, drain_deadline } = old;
    let changed = [
        ("listeners", *listeners != new.listeners),
        ("admin.address", *admin != new.admin),
        ("workers", *workers != new.workers),
        ("log.access", *access_log != new.access_log),
        ("peers", *peers != new.peers),
        ("state.path", *state != new.state),
        ("limits.drain_delay", *drain_delay != new.drain_delay),
        ("limits.drain_deadline", *drain_deadline != new.drain_deadline),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// One carbon source of the ordered chain.
#[derive(Clone, Debug, PartialEq)]
pub enum SourcePlan {
    /// The shipped yearly figures.
    Builtin,
    /// A file, read again when it changes.
    File {
        /// Which.
        path: PathBuf,
        /// Made up: readings are of quality `simulated`.
        simulated: bool,
    },
    /// The Electricity Maps API.
    ElectricityMaps {
        /// `https://api.electricitymaps.com/v4` unless overridden; the version is its last segment.
        base_url: Arc<str>,
        /// The `auth-token`.
        token: Secret,
        /// Between two questions for one zone.
        interval: Duration,
    },
}

/// Where carbon readings come from.
#[derive(Clone, Debug, PartialEq)]
pub struct CarbonPlan {
    /// The one signal used for routing.
    pub signal: Signal,
    /// What a gram counts.
    pub basis: Basis,
    /// Past its validity a reading is drawn towards what is usual; older than this it is not used.
    pub max_age: Duration,
    /// In order of preference.
    pub sources: Vec<SourcePlan>,
    /// The yearly figure of each zone, where one is known and `builtin` is among the sources or the file gave one.
    pub yearly: Vec<Option<Reading>>,
}

/// Limits of every connection and request, all on by default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request head.
    pub head: usize,
    /// Fields of a request head.
    pub fields: u32,
    /// Bytes of a request body that is collected.
    pub body: usize,
    /// Bytes of a request body that streams through to one backend.
    pub upload: u64,
    /// Bytes of all request bodies collected at one moment.
    pub buffered: usize,
    /// Connections open at once, over all listeners.
    pub connections: usize,
    /// Requests in flight at once; more are refused with 503.
    pub in_flight: usize,
    /// Streams at once on one HTTP/2 connection.
    pub streams: u32,
    /// From the first byte of a request head to its last.
    pub header_read: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
    /// Between two chunks of a request body.
    pub body_progress: Duration,
    /// What may be sent again, over all requests.
    pub retries: RetryLimits,
}

impl Default for Limits {
    /// A head of 64 KiB holds every real cookie and token; 32 MiB is the largest body the hosted APIs take with images in it, and
    /// 512 MiB of them at once is what a small machine can spare. What streams through is never held, so its limit is only there to
    /// have one: twice the largest file that a hosted API takes (2 GB at Gemini's, 512 MB at OpenAI's, in 2026). Seven seconds are three
    /// packets lost one after the other; a head is one or two, and who takes longer holds a place for nothing.
    fn default() -> Self {
        Self {
            head: 64 << 10,
            fields: crate::wire::framing::USUAL_FIELDS,
            body: 32 << 20,
            upload: 4 << 30,
            buffered: 512 << 20,
            connections: 16_384,
            in_flight: 8192,
            streams: 256,
            header_read: Duration::from_secs(7),
            idle: Duration::from_secs(75),
            body_progress: Duration::from_secs(15),
            retries: RetryLimits::default(),
        }
    }
}
