//! How many files this process may open, and who is left some of them when they become few.
//!
//! A connection that nobody can answer helps nobody: with every descriptor given to clients there was none for a backend, and none
//! for whoever wanted to see on the admin address what was wrong. So clients wait in the kernel's queue before all are taken, and
//! requests get a 503 before those for the admin address, the configuration and the log are. How far it has come is known by the
//! number of a new descriptor, which is always the lowest free one (POSIX), so that nothing has to be counted.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, Socket, Type};

/// A stream takes two: the client's connection and the backend's.
const EACH: usize = 2;
/// One part of so many is for backends: idle clients need none, and those that came before others should be served.
const FOR_BACKENDS: usize = 4;
/// For a few probes and scrapers, the configuration file, the log, and what the resolver opens.
const FOR_OURSELVES: usize = 16;

/// Up to which number descriptors may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// All of them; `None` where nothing is known.
    files: Option<usize>,
}

impl Descriptors {
    /// Of this process. Only Linux says; elsewhere everybody takes what there is.
    pub(super) fn of_this_process() -> Self {
        Self { files: open_files(&std::fs::read_to_string("/proc/self/limits").unwrap_or_default()) }
    }

    /// Where there is no limit that is known of.
    pub(super) const fn unknown() -> Self {
        Self { files: None }
    }

    /// Says so when there are not enough for `connections`, before the first client finds out.
    pub(super) fn warn_of_too_few(self, connections: usize) {
        let enough_for = |files: usize| for_backends(files) / EACH;
        if let Some(files) = self.files.filter(|files| enough_for(*files) < connections) {
            tracing::warn!(
                files,
                connections,
                "`limits.connections` is more than this process may open files for, two for each; \
                 raise the limit of open files (`ulimit -n`, `LimitNOFILE=` of systemd), or lower it to {}",
                enough_for(files)
            );
        }
    }

    /// Whether what a client's connection got is one of those that are not for clients.
    pub(super) fn ran_out_for_clients(self, taken: &impl AsFd) -> bool {
        self.files.is_some_and(|files| number(taken) >= for_clients(files))
    }

    /// Whether a client's connection would get one of those that are for clients.
    pub(super) fn are_left_for_clients(self) -> bool {
        self.files.is_none_or(|files| is_below(next(), for_clients(files)).unwrap_or(false))
    }

    /// Whether a connection to a backend may take one: it fails as if there was none left rather than take one of the last.
    pub(super) fn left_for_backends(self) -> io::Result<()> {
        let bound = self.files.map_or(usize::MAX, for_backends);
        if is_below(next(), bound)? { Ok(()) } else { Err(io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES)) }
    }
}

/// EMFILE, on every Unix: of this process.
const TOO_MANY_OPEN_FILES: i32 = 24;
/// ENFILE, on every Unix: of the whole machine.
const TOO_MANY_ON_THE_MACHINE: i32 = 23;

/// Below which number a connection to a backend may get one, of so many. Of few an eighth is for ourselves, so that the others have some.
fn for_backends(files: usize) -> usize {
    files - FOR_OURSELVES.min(files / 8)
}

/// Below which number a client's connection may get one; always fewer than those that backends may get.
fn for_clients(files: usize) -> usize {
    (files - files / FOR_BACKENDS).min(for_backends(files).saturating_sub(1))
}

/// Whether the next descriptor is below that number; an error when there is none at all. Any other failure says nothing of that, as of
/// a machine where such a socket is forbidden: then whoever wants a descriptor tries.
fn is_below(next: io::Result<Socket>, bound: usize) -> io::Result<bool> {
    match next {
        Ok(next) => Ok(number(&next) < bound),
        Err(error) if matches!(error.raw_os_error(), Some(TOO_MANY_OPEN_FILES | TOO_MANY_ON_THE_MACHINE)) => Err(error),
        Err(_) => Ok(true),
    }
}

/// The next descriptor that anybody would get.
fn next() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

fn number(descriptor: &impl AsFd) -> usize {
    descriptor.as_fd().as_raw_fd().unsigned_abs() as usize
}

/// The limit in force of the files that may be open at once; `None` where there is none.
fn open_files(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_left_none_before_backends_and_those_none_before_ourselves() {
        let one = next().unwrap();
        let upto = |files| Descriptors { files };
        // Numbers of what other tests hold lie below a hundred thousand.
        assert!(!upto(None).ran_out_for_clients(&one) && !upto(Some(1 << 20)).ran_out_for_clients(&one));
        let here = number(&one);
        assert!(upto(Some(here)).ran_out_for_clients(&one) && upto(Some(here + here / 3)).ran_out_for_clients(&one));
        assert!(!upto(Some(2 * (here + 1))).ran_out_for_clients(&one));
    }

    #[test]
    fn backends_are_left_none_of_the_last_ones() {
        let left = |files| Descriptors { files }.left_for_backends().map_err(|error| error.raw_os_error());
        assert_eq!(left(Some(3)), Err(Some(TOO_MANY_OPEN_FILES)));
        assert_eq!((left(Some(1 << 20)), left(None)), (Ok(()), Ok(())));
    }

    #[test]
    fn whoever_is_left_more_is_so_with_any_number() {
        for files in 1..5000 {
            assert!(for_clients(files) < for_backends(files) && for_backends(files) <= files, "{files}");
        }
        assert_eq!((for_clients(1024), for_backends(1024)), (768, 1008));
        assert_eq!((for_clients(0), for_backends(0)), (0, 0));
    }

    #[test]
    fn only_a_lack_of_descriptors_is_one() {
        const FORBIDDEN: i32 = 97; // EAFNOSUPPORT of Linux
        let failed = |code| is_below(Err(io::Error::from_raw_os_error(code)), 1 << 20).map_err(|error| error.raw_os_error());
        assert_eq!((failed(24), failed(23), failed(FORBIDDEN)), (Err(Some(24)), Err(Some(23)), Ok(true)));
        assert_eq!((is_below(next(), 1 << 20).unwrap(), is_below(next(), 0).unwrap()), (true, false));
    }

    #[test]
    fn the_limit_in_force_is_found() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95977                95977                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(&limits.replace("1024 ", "unlimited ")), None);
        assert_eq!(open_files(""), None);
    }
}
