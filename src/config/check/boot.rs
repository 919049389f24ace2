//! Sockets, threads, log and limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::config::decode::{At, Filled};
use crate::config::file::{AdminFile, LimitsFile, ListenerFile, LogFile, PeersFile, RetriesFile, StateFile, TlsFile};
use crate::config::network::Network;
use crate::config::node::Mark;
use crate::config::plan::{Boot, Limits, Listener, ListenerTls, LogTarget};
use crate::config::values::Address;
use crate::live::RetryLimits;

/// Where clients connect when the file says nothing: this machine only, since a proxy with credentials must not be open by accident.
const DEFAULT_LISTENER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Kubernetes takes a few seconds to take an endpoint out of its services.
const DRAIN_DELAY: Duration = Duration::from_secs(5);
/// Kubernetes kills after 30 s unless told otherwise; the delay comes before.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// The most listeners.
const MOST_LISTENERS: usize = 64;
/// The most ranges of trusted proxies; a provider of such lists a few dozen.
const MOST_NETWORKS: usize = 1024;
/// The most fields that may be asked for: whatever is above them is as good as no limit, since they share the bytes of a head.
const MOST_FIELDS: u64 = 1000;
/// Far above any machine's cores.
const MOST_WORKERS: u64 = 1024;
/// More than this without regard to the traffic is no limit.
const MOST_RETRIES_PER_SECOND: u64 = 1000;

impl Check<'_> {
    pub(super) fn boot(
        &mut self,
        listeners: Option<Filled<ListenerFile>>,
        admin: Option<AdminFile>,
        workers: Option<At<u64>>,
        log: Option<LogFile>,
        limits: Option<At<LimitsFile>>,
        (peers, state): (Option<&PeersFile>, Option<StateFile>),
    ) -> (Boot, Limits) {
        let (listeners, marks) = self.listeners(listeners);
        let admin = admin.and_then(|admin| self.admin(&admin.address, &listeners, &marks));
        let workers = workers.map(|written| self.count(Some(&written), 1, 1..=MOST_WORKERS) as u16);
        let access_log = self.access_log(log);
        let (limits, drain_delay, drain_deadline) = self.limits(limits);
        let peers = peers.and_then(|peers| self.peers(peers));
        let state = state.and_then(|state| self.state(&state));
        (Boot { listeners, admin, workers, access_log, peers, state, drain_delay, drain_deadline }, limits)
    }

    fn listeners(&mut self, written: Option<Filled<ListenerFile>>) -> (Vec<Listener>, Vec<Mark>) {
        let Some(written) = written else {
            return (vec![Listener::at(DEFAULT_LISTENER)], vec![Mark::default()]);
        };
        let (mut listeners, mut marks) = (Vec::<Listener>::new(), Vec::<Mark>::new());
        if let Some(past) = written.0.get(MOST_LISTENERS) {
            self.problems.add(past.address.mark, format!("more than {MOST_LISTENERS} listeners"));
        }
        for ListenerFile { address: at, tls, trusted_proxies, connection_balance } in written.0.into_iter().take(MOST_LISTENERS) {
            let tls = tls.and_then(|tls| self.tls(&tls));
            let trusted_proxies = self.networks(&trusted_proxies.unwrap_or_default());
            let Some(address) = self.address(&at) else { continue };
            if let Some(index) = listeners.iter().position(|other| collide(other.address, address)) {
                let line = marks.get(index).map_or(0, |mark| mark.line);
                self.problems.add(at.mark, format!("{} is already listened on", at.shown())).mend =
                    Some(format!("the first one is in line {line}"));
            }
            listeners.push(Listener { address, tls, trusted_proxies, balance: connection_balance.unwrap_or_default() });
            marks.push(at.mark);
        }
        (listeners, marks)
    }

    fn networks(&mut self, written: &[At<String>]) -> Vec<Network> {
        if let Some(past) = written.get(MOST_NETWORKS) {
            self.problems.add(past.mark, format!("more than {MOST_NETWORKS} ranges of addresses"));
        }
        let mut networks = Vec::new();
        for range in written.iter().take(MOST_NETWORKS) {
            match range.value.trim().parse() {
                Ok(network) => networks.push(network),
                Err(error) => drop(self.problems.add(range.mark, format!("{} is {error}", range.shown()))),
            }
        }
        networks
    }

    fn admin(&mut self, written: &At<Address>, listeners: &[Listener], marks: &[Mark]) -> Option<SocketAddr> {
        let address = self.address(written)?;
        if let Some(index) = listeners.iter().position(|listener| collide(listener.address, address)) {
            let line = marks.get(index).map_or(0, |mark| mark.line);
            let place = if line == 0 { "the default listener".to_owned() } else { format!("the listener in line {line}") };
            self.problems.add(written.mark, format!("{} is the address of {place} too", written.shown())).mend =
                Some("give the admin address a port of its own".to_owned());
        }
        if !address.ip().to_canonical().is_loopback() {
            let message =
                "whoever reaches this address sees what is in force and may reload it, since nobody is asked for a key here";
            self.warnings.add(written.mark, message).mend =
                Some("listen on 127.0.0.1, or see to it that only your monitoring reaches it".to_owned());
        }
        Some(address)
    }

    pub(super) fn address(&mut self, written: &At<Address>) -> Option<SocketAddr> {
        let text = written.value.as_ref();
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port).parse::<u16>().ok();
        self.problems.add(written.mark, format!("{} is no IP address with a port", written.shown())).mend = Some(match port {
            Some(port) => {
                format!("write `127.0.0.1:{port}` for this machine only, or `0.0.0.0:{port}` for all that can reach it")
            }
            None => "write it as `127.0.0.1:8080` or `[::1]:8080`".to_owned(),
        });
        None
    }

    fn tls(&mut self, written: &TlsFile) -> Option<ListenerTls> {
        let (_, shown) = self.identity(written)?;
        Some(ListenerTls { certificate: self.path(&written.certificate.value), key: self.path(&written.key.value), shown })
    }

    fn access_log(&mut self, written: Option<LogFile>) -> LogTarget {
        let Some(access) = written.and_then(|log| log.access) else { return LogTarget::Stdout };
        match &*access.value {
            "" => {
                self.problems.add(access.mark, "the access log needs a path").mend =
                    Some("write a path, `-` for standard output, or `off`".to_owned());
                LogTarget::Off
            }
            "-" => LogTarget::Stdout,
            "off" => LogTarget::Off,
            path => LogTarget::File(self.path(path)),
        }
    }

    fn state(&mut self, written: &StateFile) -> Option<PathBuf> {
        let path = &written.path;
        if path.value.trim().is_empty() {
            self.problems.add(path.mark, "the state needs a path").mend =
                Some("leave `state` out to learn anew each time".to_owned());
            return None;
        }
        Some(self.path(&path.value))
    }

    fn limits(&mut self, written: Option<At<LimitsFile>>) -> (Limits, Duration, Duration) {
        let default = Limits::default();
        let Some(At { value: file, mark, .. }) = written else { return (default, DRAIN_DELAY, DRAIN_DEADLINE) };
        let buffered_mark = file.buffered.as_ref().or(file.body.as_ref()).map_or(mark, |size| size.mark);
        let many = 1..=u64::from(u32::MAX);
        let limits = Limits {
            head: self.size(file.head, default.head),
            fields: self.count(file.fields.as_ref(), default.fields.into(), 1..=MOST_FIELDS) as u32,
            body: self.size(file.body, default.body),
            upload: self.size(file.upload, usize::try_from(default.upload).unwrap_or(usize::MAX)) as u64,
            buffered: self.size(file.buffered, default.buffered),
            connections: self.count(file.connections.as_ref(), default.connections as u64, many.clone()) as usize,
            in_flight: self.count(file.in_flight.as_ref(), default.in_flight as u64, many.clone()) as usize,
            streams: self.count(file.streams.as_ref(), default.streams.into(), many) as u32,
            header_read: self.span(file.header_read, default.header_read),
            idle: self.span(file.idle, default.idle),
            body_progress: self.span(file.body_progress, default.body_progress),
            retries: file.retries.map_or(default.retries, |written| self.retries(&written)),
        };
        if limits.buffered < limits.body {
            self.problems
                .add(buffered_mark, "`buffered` is less than `body`, so the largest body could never be collected")
                .mend = Some("`buffered` is for all bodies of one moment together".to_owned());
        }
        // No delay is a fair wish where nothing balances load.
        let delay = file.drain_delay.map_or(DRAIN_DELAY, |written| written.value.0);
        (limits, delay, self.span(file.drain_deadline, DRAIN_DEADLINE))
    }

    fn retries(&mut self, written: &RetriesFile) -> RetryLimits {
        let default = RetryLimits::default();
        let share = written.share.as_ref().map_or(default.share, |share| {
            if !(0.0..=1.0).contains(&share.value) {
                self.problems.add(share.mark, "a share of the requests lies between 0 and 1").mend = (1.0..=100.0)
                    .contains(&share.value)
                    .then(|| format!("write `{}` for {} %", share.value / 100.0, share.value));
                return default.share;
            }
            share.value
        });
        let per_second = self.count(written.per_second.as_ref(), default.per_second.into(), 0..=MOST_RETRIES_PER_SECOND) as u32;
        RetryLimits { share, per_second }
    }
}

/// Whether two sockets cannot be bound at once: the same port at the same address, or at all addresses of the family. Port 0 is
/// another one each time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let all = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || all && a.is_ipv4() == b.is_ipv4())
}
