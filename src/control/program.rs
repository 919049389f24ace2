//! Runs a program for what it writes: within a time, up to a length, and with an end to all that it has started.
//!
//! It gets no input, and what it writes to its standard error is thrown away, because that may show what must not be seen; its status says
//! that it failed, and to run it by hand says why.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The longest output that is read, in bytes. A token has a few thousand, and must fit into a head.
pub(super) const MOST: u64 = 64 << 10;
/// How long a program may take. Those of Azure and Google start an interpreter and ask a server.
const LONGEST: Duration = Duration::from_secs(30);
/// How long the output of a program that has ended is read on. All it wrote lies ready then; but others may hold the pipe for hours.
const AFTER_END: Duration = Duration::from_secs(1);

/// What it writes, if it ends well.
pub(super) async fn output(program: &str, told: impl Iterator<Item = &str>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(told).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // One that is not waited for any more has to end, or every try would leave one behind; and with it all that it has started, since
    // many a program is a script around another.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    // Dropped before the child is, so that its number is still its own.
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let ended = timeout(LONGEST, output_of(&mut child, &mut group)).await;
    let ended = ended.map_err(|_| format!("it took longer than {} s", LONGEST.as_secs()))?;
    let (text, status) = ended.map_err(|error| error.to_string())?;
    let text = bounded(text)?;
    match status {
        Some(status) if !status.success() => Err(format!("it ended with {status}")),
        _ => Ok(text),
    }
}

/// What it writes until it ends, and how it ended; `None` where it writes on and on, and nobody waits for the end.
async fn output_of(child: &mut Child, group: &mut Group) -> io::Result<(Vec<u8>, Option<ExitStatus>)> {
    let (mut text, output) = (Vec::new(), child.stdout.take());
    let mut output = output.ok_or(io::ErrorKind::BrokenPipe)?.take(MOST + 1);
    let ended = loop {
        tokio::select! {
            read = output.read_buf(&mut text) => if read? == 0 { break None },
            ended = child.wait() => break Some(ended?),
        }
    };
    if text.len() as u64 > MOST {
        return Ok((text, None));
    }
    let status = match ended {
        None => child.wait().await?,
        Some(status) => {
            let rest = async { while output.read_buf(&mut text).await.is_ok_and(|read| read > 0) {} };
            // What comes later, or never, is somebody's whom it left behind.
            let _ = timeout(AFTER_END, rest).await;
            status
        }
    };
    group.0 = None;
    Ok((text, Some(status)))
}

/// A program and all that it starts, which end with this unless the program has ended by itself: what it leaves behind then, it means
/// to, and its number may be another's.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended this very moment.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// As text, up to the length.
pub(super) fn bounded(text: Vec<u8>) -> Result<String, String> {
    if text.len() as u64 > MOST {
        return Err(format!("it is longer than {MOST} bytes"));
    }
    String::from_utf8(text).map_err(|_| "it is no text".to_owned())
}
