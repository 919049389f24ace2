//! Opening what has to be a file.
//!
//! A pipe in the place of a file blocks whoever opens it, for ever if nobody writes, and a device never ends. What is looked at every few
//! seconds must not be either, so the kind is looked at before it is opened, and again after, when it cannot change any more.

use std::fs::{File, FileType, Metadata};
use std::io;
use std::path::Path;

/// Opens a regular file, or a link to one; anything else is an error that says what it is.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    let meta = file.metadata()?;
    regular(&meta)?;
    Ok((file, meta))
}

fn regular(meta: &Metadata) -> io::Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {}, and no file", kind(meta.file_type()))))
}

#[cfg(unix)]
fn kind(of: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;

    match of {
        of if of.is_dir() => "a directory",
        of if of.is_fifo() => "a pipe",
        of if of.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn kind(of: FileType) -> &'static str {
    if of.is_dir() { "a directory" } else { "something else" }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_is_opened_and_nothing_else_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("pipe"));
        std::fs::write(&file, "abc").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(open_regular(&link).unwrap().1.len(), 3);
        for (path, what) in [(pipe.as_path(), "a pipe"), (dir.path(), "a directory"), (Path::new("/dev/zero"), "a device")] {
            let error = open_regular(path).unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::InvalidInput, format!("it is {what}, and no file")));
            assert!(crate::control::reload::read_configuration(path).is_err(), "{what}");
        }
    }
}
