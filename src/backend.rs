//! One regional model endpoint, as the plan means it: everything a request needs is rendered here once, at load.

mod aws;
mod renewed;

use std::sync::Arc;
use std::time::Duration;

pub use aws::{AwsChain, AwsKeys, AwsRole, KeySource, SigV4};
use http::HeaderValue;
pub use renewed::{Renewable, Renewed, TokenSource};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::dialect::Dialect;
use crate::grid::ZoneId;
use crate::live::Prior;
use crate::units::Pue;

/// A backend's place in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u16);

impl BackendId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How sure we are where a request runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlacementKind {
    /// In the one region named.
    #[default]
    Pinned,
    /// Somewhere within a known set of regions.
    Geo,
    /// Anywhere the provider likes.
    Global,
    /// Nobody said.
    Unknown,
}

impl PlacementKind {
    /// The word in YAML and log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Geo => "geo",
            Self::Global => "global",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a backend's requests run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// How sure that is.
    pub kind: PlacementKind,
    /// The grid zones it may be; the dirtiest one counts. Empty when nobody knows, and then it never wins as green.
    pub zones: SmallVec<[ZoneId; 2]>,
}

/// Text that never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes the text in.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// Gives the text out, to be sent where it belongs and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Which credential a backend is sent. Whatever the client sent is dropped first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credential {
    /// None at all.
    #[default]
    None,
    /// The one credential header of the dialect, as the client sent it.
    PassThrough,
    /// This header with this value, marked sensitive.
    Header(http::HeaderName, HeaderValue),
    /// A header with a token that is renewed beside the traffic.
    Renewed(Arc<Renewed>),
    /// A signature of each request by itself.
    SigV4(Arc<SigV4>),
}

/// HTTP version towards a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN over https, by prior knowledge over http.
    Http2,
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// https, with verification.
    pub tls: bool,
    /// Host name or address without port and brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// The `Host` field: host and port as the URL wrote them.
    pub authority: HeaderValue,
    /// Path of the URL without a slash at its end; it stands where the route's prefix stood.
    pub base_path: Arc<str>,
    /// Certificates (DER) to trust instead of the system's.
    pub ca: Option<Arc<[rustls_pki_types::CertificateDer<'static>]>>,
    /// What is shown to a server that asks who connects (mutual TLS).
    pub identity: Option<Arc<Identity>>,
}

/// A certificate and its key.
#[derive(PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then those that lead to an authority.
    pub chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    /// Its private key.
    pub key: rustls_pki_types::PrivateKeyDer<'static>,
}

/// Says nothing of the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Origin {
    /// Whether it is the same place, whatever is trusted of it and shown to it: a certificate that is renewed is no other backend.
    pub fn is_at(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port, &self.base_path) == (other.tls, &other.host, other.port, &other.base_path)
    }
}

/// How long each phase of an exchange with a backend may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection, TLS included, stands.
    pub connect: Duration,
    /// From the request sent to the response head.
    pub first_byte: Duration,
    /// Between two chunks of the response body.
    pub idle: Duration,
    /// The whole exchange.
    pub total: Duration,
}

impl Default for Timeouts {
    /// A connection that takes five seconds is not going to be fast; a reasoning model may think for minutes before its first byte
    /// and between chunks; half an hour is longer than any hosted model answers.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_mins(5),
            idle: Duration::from_mins(2),
            total: Duration::from_mins(30),
        }
    }
}

/// How a backend is asked beside its traffic whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, by `GET`, from the root of the host.
    pub target: http::uri::PathAndQuery,
    /// From one check to the next, a tenth more or less.
    pub every: Duration,
    /// Until the response head.
    pub timeout: Duration,
    /// Failing checks in a row that eject it.
    pub failures: u32,
    /// Passing checks in a row that end an ejection early.
    pub passes: u32,
}

/// Whether streams are made to end with their usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageMode {
    /// `stream_options.include_usage` is spliced in, and the extra event taken out again for a client that did not ask.
    #[default]
    Inject,
    /// The same, and each event is made to say what there is so far (`continuous_usage_stats`), which vLLM and its kin can: then also a
    /// stream that breaks off has said it. It is taken out of every event again.
    Continuous,
    /// The request is left alone.
    Never,
}

/// One regional model endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its place in the plan.
    pub id: BackendId,
    /// Its name in the file.
    pub name: Arc<str>,
    /// The name, ready to be sent as `x-windward-backend`.
    pub name_header: HeaderValue,
    /// Where it listens.
    pub origin: Origin,
    /// HTTP version towards it.
    pub protocol: Protocol,
    /// The version of Azure's classic paths, where it is called by these.
    pub api_version: Option<Arc<str>>,
    /// Wire format it speaks.
    pub dialect: Dialect,
    /// Those of clients that it serves besides, by translation.
    pub translates: Box<[Dialect]>,
    /// The cloud's word for the region (`aws/us-west-2`), or the operator's.
    pub region: Arc<str>,
    /// The region, ready to be sent as `x-windward-region`.
    pub region_header: HeaderValue,
    /// Where its requests run.
    pub placement: Placement,
    /// Power usage effectiveness of the building.
    pub pue: Pue,
    /// What it is sent as credential.
    pub credential: Credential,
    /// Requests it takes at once; more are not sent.
    pub max_in_flight: u32,
    /// Beliefs about its models before they were used.
    pub prior: Prior,
    /// Whether the round trip to it is measured until an answer has come, and added to the first token that is expected.
    pub probe: bool,
    /// Limits on waiting.
    pub timeouts: Timeouts,
    /// Whether streams are made to report usage.
    pub usage: UsageMode,
    /// How long an idle connection to it is kept.
    pub keep_idle: Duration,
    /// How it is asked whether it works; `None` leaves that to its traffic.
    pub health: Option<HealthCheck>,
    /// Whether it is told who the client is.
    pub forward_client: bool,
    /// Made up for a demonstration: its records are labelled and excluded from claims.
    pub simulated: bool,
}

impl Backend {
    /// Whether a client of that dialect can be served here at all: as it speaks, or by translation.
    pub fn serves(&self, client: Dialect) -> bool {
        self.dialect.is_kin_of(client) || self.translates.iter().any(|dialect| dialect.is_kin_of(client))
    }
}
