//! The process's environment and disk, as [`crate::config`] wants them handed in.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::{Env, Files, MAX_FILE};

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

/// The text of a configuration file. One that is too long is cut just past [`MAX_FILE`], which `load` then reports.
pub fn read_configuration(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
        // The cut may have split a character, which is not what is wrong with this file.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "é".repeat(MAX_FILE)).unwrap();
        assert!(read_configuration(&path).unwrap().len() > MAX_FILE);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_configuration(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_large_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"abc");
        assert_eq!(read_bounded(&path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
