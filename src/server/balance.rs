//! Which worker gets a connection.
//!
//! With a socket for each of them the kernel says, by a hash of the addresses, and nothing crosses between threads. Of many
//! connections each worker gets its share; of a few that stay for long, as those of HTTP/2 do, one worker may get most. For those one
//! worker accepts for all, and hands the sockets out in turns.

use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use super::descriptors::Descriptors;
use super::listener::{Bound, Entrance, accept};
use crate::telemetry::metrics::Metrics;

/// Sockets that were handed to one worker and not yet taken. It takes them whenever it comes to look; one that has left so many lie
/// is stuck, and when all are, what comes is closed.
const HANDED: usize = 1024;

/// An accepted connection on its way to the reactor of another thread.
type Handed = (StdStream, SocketAddr);

/// Where connections come from to one worker, and how they are met.
pub(super) struct Door<L = StdListener> {
    source: Source<L>,
    pub(super) entrance: Entrance,
}

enum Source<L> {
    /// From a socket, for this worker.
    Own(L),
    /// From a socket, for all of them.
    ForAll(L, Turns),
    /// From whoever accepts for all.
    Handed(Receiver<Handed>),
}

/// The doors of each worker.
pub(super) fn doors(bound: Vec<Bound>, workers: usize) -> Vec<Vec<Door>> {
    let mut doors: Vec<Vec<Door>> = (0..workers).map(|_| Vec::new()).collect();
    for (nth, Bound { sockets, for_all, entrance, .. }) in bound.into_iter().enumerate() {
        let mut add = |worker: usize, source| {
            if let Some(own) = doors.get_mut(worker) {
                own.push(Door { source, entrance: entrance.clone() });
            }
        };
        if !for_all {
            sockets.into_iter().enumerate().for_each(|(worker, socket)| add(worker, Source::Own(socket)));
            continue;
        }
        let (to, from): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel(HANDED)).unzip();
        from.into_iter().enumerate().for_each(|(worker, from)| add(worker, Source::Handed(from)));
        // Of several listeners not all are one worker's work.
        for socket in sockets {
            add(nth % workers.max(1), Source::ForAll(socket, Turns { to: to.clone(), next: 0 }));
        }
    }
    doors
}

impl Door {
    /// The same on the thread that it is for.
    pub(super) fn here(self) -> std::io::Result<Door<TcpListener>> {
        let source = match self.source {
            Source::Own(socket) => Source::Own(TcpListener::from_std(socket)?),
            Source::ForAll(socket, turns) => Source::ForAll(TcpListener::from_std(socket)?, turns),
            Source::Handed(from) => Source::Handed(from),
        };
        Ok(Door { source, entrance: self.entrance })
    }
}

impl Door<TcpListener> {
    /// Takes what comes until `stop`, and then what had been accepted already.
    pub(super) async fn open(
        self,
        stop: CancellationToken,
        descriptors: Descriptors,
        metrics: &Metrics,
        mut take: impl FnMut(TcpStream, SocketAddr),
    ) {
        match self.source {
            Source::Own(socket) => accept(socket, stop, descriptors, metrics, take).await,
            Source::ForAll(socket, mut turns) => {
                let hand = |socket: TcpStream, peer| {
                    let handed = socket.into_std().is_ok_and(|socket| turns.hand((socket, peer)));
                    if !handed {
                        metrics.accepted.add_one();
                        metrics.refused_connections.add_one();
                    }
                };
                accept(socket, stop, descriptors, metrics, hand).await;
            }
            // It ends when the one who accepts has.
            Source::Handed(mut from) => {
                while let Some((socket, peer)) = from.recv().await {
                    match TcpStream::from_std(socket) {
                        Ok(socket) => take(socket, peer),
                        Err(_) => metrics.accept_errors.add_one(),
                    }
                }
            }
        }
    }
}

/// Whose turn it is.
struct Turns {
    to: Vec<Sender<Handed>>,
    next: usize,
}

impl Turns {
    /// Hands a connection to the next worker that takes it; false when none does.
    fn hand(&mut self, mut handed: Handed) -> bool {
        for _ in 0..self.to.len() {
            let Some(to) = self.to.get(self.next) else { return false };
            self.next = (self.next + 1) % self.to.len();
            match to.try_send(handed) {
                Ok(()) => return true,
                Err(TrySendError::Full(back) | TrySendError::Closed(back)) => handed = back,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_and_who_is_stuck_is_passed_over() {
        let (to, mut from): (Vec<_>, Vec<_>) = [1, 3].map(channel).into_iter().unzip();
        let mut turns = Turns { to, next: 0 };
        let listener = StdListener::bind(crate::testing::ANY_PORT).unwrap();
        let mut hand = || {
            let peer = listener.local_addr().unwrap();
            turns.hand((StdStream::connect(peer).unwrap(), peer))
        };
        let handed = [(); 5].map(|()| hand());
        assert_eq!(handed, [true, true, true, true, false], "one has room for one, and the other for three");
        assert_eq!(from.iter().map(Receiver::len).collect::<Vec<_>>(), [1, 3]);
        from.remove(1);
        assert!(!hand(), "one is full and the other gone");
        from.clear();
        assert!(!hand());
    }
}
