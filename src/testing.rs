//! Plans for tests of the runtime, made without the configuration's file format.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::backend::{Backend, BackendId, Credential, Origin, Placement, PlacementKind, Protocol, Timeouts, UsageMode};
use crate::config::{Boot, CarbonPlan, Limits, Listener, LogTarget, Plan};
use crate::dialect::Dialect;
use crate::grid::{Basis, GridZone, Signal, ZoneId};
use crate::key::Keys;
use crate::live::Prior;
use crate::tables::EnergyTable;
use crate::units::Pue;

/// Any free port of the loopback interface.
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// One backend called `north` in the zone `SE-SE1`, no route, one listener and an admin address on any free port.
pub(crate) fn plan() -> Plan {
    Plan {
        boot: Boot {
            listeners: vec![Listener::at(ANY_PORT)],
            admin: Some(ANY_PORT),
            workers: Some(2),
            access_log: LogTarget::Off,
            peers: None,
            state: None,
            drain_delay: Duration::ZERO,
            drain_deadline: Duration::from_secs(20),
        },
        carbon: CarbonPlan {
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            max_age: Duration::from_hours(2),
            sources: Vec::new(),
            yearly: vec![None],
        },
        energy: Arc::new(EnergyTable::shipped().clone()),
        zones: vec![GridZone::new("SE-SE1")],
        backends: vec![Arc::new(backend())],
        models: vec![vec![(Arc::from("m"), Prior::default())]],
        routes: Vec::new(),
        flows: Vec::new(),
        policies: Vec::new(),
        keys: Keys::default(),
        geographies: Vec::new(),
        limits: Limits::default(),
        model_lists: Vec::new(),
        credential_fields: Box::default(),
        text_hash: 0,
    }
}

fn backend() -> Backend {
    Backend {
        id: BackendId(0),
        name: Arc::from("north"),
        name_header: HeaderValue::from_static("north"),
        origin: Origin {
            tls: false,
            host: Arc::from("127.0.0.1"),
            port: 9,
            authority: HeaderValue::from_static("127.0.0.1:9"),
            base_path: Arc::from(""),
            ca: None,
            identity: None,
        },
        protocol: Protocol::Http1,
        dialect: Dialect::default(),
        translates: Box::default(),
        region: Arc::from("aws/eu-north-1"),
        region_header: HeaderValue::from_static("aws/eu-north-1"),
        placement: Placement { kind: PlacementKind::Pinned, zones: [ZoneId(0)].into_iter().collect() },
        pue: Pue::ONE,
        credential: Credential::None,
        api_version: None,
        max_in_flight: 8,
        prior: Prior::default(),
        probe: false,
        timeouts: Timeouts::default(),
        usage: UsageMode::default(),
        keep_idle: Duration::from_secs(4),
        health: None,
        forward_client: false,
        simulated: false,
    }
}
