//! Listening sockets: bound once for all workers, accepted from by each.
//!
//! Every worker has its own socket for each address (`SO_REUSEPORT`), so that the kernel spreads connections and nothing has to be
//! handed from thread to thread, unless that is [asked for](super::balance). The option has a price: a second process could bind the same address without an error and take
//! half of the connections. So the address is first bound without it, once.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::Peer;
use super::descriptors::Descriptors;
use super::tls;
use crate::config::{Balance, Listener, Network};
use crate::state::State;
use crate::telemetry::metrics::Metrics;

/// Connections that the kernel keeps until they are accepted: enough for every client of a restarted proxy to come back at once.
const BACKLOG: i32 = 4096;
/// How long accepting rests when there is no file descriptor left for clients ..
const FIRST_REST: Duration = Duration::from_millis(50);
/// .. how long at the most, since connections that end make room at any moment.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// .. and how often that is said, of each worker's listener: connections that end let in one more and fail the next, time and again.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("cannot listen on {address}: another process does already; stop it, or change the address of `{key}`")]
    InUse {
        /// Where.
        address: SocketAddr,
        /// The key of the configuration to change.
        key: String,
    },
    /// Anything else that the system says.
    #[error("cannot listen on {address} (`{key}`): {error}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// The key of the configuration to change.
        key: String,
        /// What the system says.
        error: io::Error,
    },
    /// TLS itself.
    #[error("listener {address}: {error}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        error: rustls::Error,
    },
}

/// One address, bound.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// One for each worker, or for all of them one.
    pub(super) sockets: Vec<StdListener>,
    pub(super) for_all: bool,
    pub(super) entrance: Entrance,
}

/// How whoever comes to a listener is met.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) trusted_proxies: Arc<[Network]>,
}

impl Entrance {
    /// Who a peer is.
    pub(super) fn peer(&self, address: SocketAddr) -> Peer {
        let trusted = self.trusted_proxies.iter().any(|network| network.contains(address.ip()));
        Peer { address, tls: self.tls.is_some(), trusted }
    }
}

/// Binds a listener for `workers` threads.
pub(super) fn bind(listener: &Listener, index: usize, workers: usize, state: &Arc<State>) -> Result<Bound, BindError> {
    let wanted = listener.address;
    let tls = listener.tls.as_ref().map(|_| tls::config(state, index));
    let tls = tls.transpose().map_err(|error| BindError::Tls { address: wanted, error })?;
    let key = || format!("listeners[{index}].address");
    if wanted.port() != 0 {
        drop(socket(wanted, false).map_err(|error| refused(wanted, key(), error))?);
    }
    let mut sockets = Vec::with_capacity(workers);
    let mut address = wanted;
    let for_all = listener.balance == Balance::RoundRobin;
    for _ in 0..if for_all { 1 } else { workers.max(1) } {
        let bound = socket(address, !for_all).and_then(|socket| {
            socket.listen(BACKLOG)?;
            let listener = StdListener::from(socket);
            Ok((listener.local_addr()?, listener))
        });
        let (local, socket) = bound.map_err(|error| refused(address, key(), error))?;
        // The first socket finds the port where none was asked for; the others share it.
        address = local;
        sockets.push(socket);
    }
    let entrance = Entrance { tls, trusted_proxies: listener.trusted_proxies.clone().into() };
    Ok(Bound { address, sockets, for_all, entrance })
}

/// Binds an address for one thread alone.
pub(super) fn bind_alone(address: SocketAddr, key: &str) -> Result<StdListener, BindError> {
    let listen = |socket: Socket| socket.listen(BACKLOG).map(|()| StdListener::from(socket));
    socket(address, false).and_then(listen).map_err(|error| refused(address, key.to_owned(), error))
}

/// Binds an address for datagrams.
pub(super) fn bind_datagrams(address: SocketAddr, key: &str) -> Result<UdpSocket, BindError> {
    let bound = UdpSocket::bind(address).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    bound.map_err(|error| refused(address, key.to_owned(), error))
}

fn refused(address: SocketAddr, key: String, error: io::Error) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address, key },
        _ => BindError::Socket { address, key, error },
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a run before that are still closing must not keep the address.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A place among the connections that may be open at once over all listeners, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    open: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Place {
    /// A place, unless `limit` are taken.
    pub(super) fn take(open: &Arc<AtomicUsize>, limit: usize, metrics: &Arc<Metrics>) -> Option<Self> {
        if open.fetch_add(1, Relaxed) >= limit {
            open.fetch_sub(1, Relaxed);
            return None;
        }
        metrics.connections.add(1);
        Some(Self { open: Arc::clone(open), metrics: Arc::clone(metrics) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        self.metrics.connections.add(-1);
    }
}

/// Accepts until `stop`, and then what the kernel had accepted already: closing a socket would reset those connections.
pub(super) async fn accept(
    listener: TcpListener,
    stop: CancellationToken,
    descriptors: Descriptors,
    metrics: &Metrics,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let (mut rest, mut few, mut said) = (FIRST_REST, false, None::<Instant>);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next(&listener, few, descriptors) => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                rest = FIRST_REST;
                few = descriptors.ran_out_for_clients(&socket);
                take(socket, peer);
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                metrics.accept_errors.add_one();
                let now = Instant::now();
                if said.is_none_or(|said| now - said >= SAID_EVERY) {
                    said = Some(now);
                    tracing::error!(
                        %error,
                        "cannot accept connections; trying again. Raise the limit of open files (`ulimit -n`, `LimitNOFILE=` of \
                         systemd), or lower `limits.connections`"
                    );
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(rest) => {}
                }
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
    if let Ok(listener) = listener.into_std() {
        // What is left for backends is left for those of the requests that are to end.
        while (!few || descriptors.are_left_for_clients())
            && let Ok((socket, peer)) = listener.accept()
        {
            few = descriptors.ran_out_for_clients(&socket);
            if socket.set_nonblocking(true).is_ok()
                && let Ok(socket) = TcpStream::from_std(socket)
            {
                take(socket, peer);
            }
        }
    }
}

/// The next connection, unless they were `few` descriptors when the last one came, and still are.
async fn next(listener: &TcpListener, few: bool, descriptors: Descriptors) -> io::Result<(TcpStream, SocketAddr)> {
    if few && !descriptors.are_left_for_clients() {
        return Err(io::Error::other("the descriptors that are left are for backends and the admin address"));
    }
    listener.accept().await
}

/// Whether only that one connection failed, before it was accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::state::Snapshot;
    use crate::testing::{ANY_PORT, plan};

    fn bind(listener: &Listener, index: usize, workers: usize) -> Result<Bound, BindError> {
        let state = State::new(Snapshot::first(Arc::new(plan()), SystemClock.monotonic()));
        super::bind(listener, index, workers, &Arc::new(state))
    }

    #[test]
    fn every_worker_has_a_socket_on_the_same_port() {
        let bound = bind(&Listener::at(ANY_PORT), 0, 3).unwrap();
        assert_ne!(bound.address.port(), 0);
        assert_eq!(bound.sockets.len(), 3);
        assert!(bound.sockets.iter().all(|socket| socket.local_addr().unwrap() == bound.address));
    }

    #[test]
    fn where_one_accepts_for_all_nobody_else_can_listen() {
        let listener = Listener { balance: Balance::RoundRobin, ..Listener::at(ANY_PORT) };
        let bound = bind(&listener, 0, 3).unwrap();
        assert_eq!((bound.sockets.len(), bound.for_all), (1, true));
        assert!(bind(&Listener { address: bound.address, ..listener }, 0, 3).is_err());
        assert!(socket(bound.address, true).is_err());
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it_even_if_it_is_shared() {
        let first = bind(&Listener::at(ANY_PORT), 0, 2).unwrap();
        let error = bind(&Listener::at(first.address), 1, 2).unwrap_err().to_string();
        assert!(error.contains(&first.address.to_string()) && error.contains("listeners[1].address"), "{error}");
        let error = bind_alone(first.address, "admin").unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
    }

    #[test]
    fn places_are_given_back() {
        let (open, metrics) = (Arc::new(AtomicUsize::new(0)), Arc::new(Metrics::default()));
        let first = Place::take(&open, 1, &metrics);
        assert!(first.is_some() && Place::take(&open, 1, &metrics).is_none());
        assert_eq!(metrics.connections.get(), 1);
        drop(first);
        assert!(Place::take(&open, 1, &metrics).is_some());
    }
}
