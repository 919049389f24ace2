//! The process's environment and disk, as [`crate::config`] wants them handed in.

use std::io::{self, Read};
use std::path::Path;

use crate::config::{Env, Files};
use crate::control::regular::open_regular;

/// The largest file that a configuration may name, in bytes: a bundle of all the world's certificates has a quarter of it.
const MAX_NAMED: u64 = 1 << 20;

/// The variables of this process. Names and values that are no Unicode are left out, as no configuration could name or use them.
pub fn environment() -> Env {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    /// At most 1 MiB; a larger file is an error, so that a device or a log in the wrong place cannot fill the memory.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_bounded(path, MAX_NAMED)
    }
}

/// The recordings of this machine: tables that a scenario names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recordings;

/// The largest recording, in bytes: as much as a packed one may hold unpacked, which is two million requests.
const MAX_RECORDING: u64 = 64 << 20;

impl Files for Recordings {
    /// At most 64 MiB; a larger file is an error.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_bounded(path, MAX_RECORDING)
    }
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_regular(path)?.0.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let most = format!("it is larger than {} MiB", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, most));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"abc");
        assert_eq!(read_bounded(&path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
