//! Where the view goes: a terminal, drawn over and over in one place, or plain lines.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::tally::Tally;
use super::view::{Colour, View};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The width that is believed of a terminal which does not say: what terminals have had since there were any.
const USUAL_WIDTH: usize = 80;

/// The log that is watched, and what of it was shown last.
pub(super) struct Screen {
    tally: Tally<File>,
    terminal: bool,
    drawn: Option<(Instant, usize)>,
}

impl Screen {
    pub(super) fn new(log: File) -> Self {
        Self { tally: Tally::new(log), terminal: io::stdout().is_terminal(), drawn: None }
    }

    pub(super) fn draw(&mut self, now: Instant, view: impl FnOnce(&Tally<File>) -> View) -> io::Result<()> {
        self.tally.catch_up()?;
        if self.terminal {
            let frame = view(&self.tally).frame(terminal_width(), Colour::Ansi);
            let up = self.drawn.map_or_else(String::new, |(_, lines)| format!("\x1b[{lines}A\x1b[0J"));
            self.drawn = Some((now, frame.lines().count()));
            say(&format!("{up}{frame}"))
        } else if self.drawn.is_none_or(|(at, _)| now - at >= LINE_EVERY) {
            self.drawn = Some((now, 0));
            say(&format!("{}\n", view(&self.tally).plain_line()))
        } else {
            Ok(())
        }
    }
}

/// Columns of the terminal. It is asked before each frame, since a line that wraps leaves the next frame in the wrong place and a
/// window may have been made narrower.
fn terminal_width() -> usize {
    let said = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    let exported = std::env::var_os("COLUMNS").and_then(|columns| columns.into_string().ok());
    width(said, exported.as_deref())
}

/// What the terminal says, else what its shell has exported. A terminal that does not know says 0.
fn width(said: Option<u16>, exported: Option<&str>) -> usize {
    let said = said.map(usize::from).filter(|columns| *columns > 0);
    let exported = || exported?.trim().parse().ok().filter(|columns| *columns > 0);
    said.or_else(exported).unwrap_or(USUAL_WIDTH)
}

/// Writes to standard output.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_knows_its_width_better_than_its_shell() {
        for (said, exported, expected) in [
            (Some(61), Some("132"), 61),
            (Some(0), Some("132"), 132),
            (None, Some("132"), 132),
            (None, Some("0"), USUAL_WIDTH),
            (None, Some("wide"), USUAL_WIDTH),
            (Some(0), None, USUAL_WIDTH),
            (None, None, USUAL_WIDTH),
        ] {
            assert_eq!(width(said, exported), expected, "{said:?} {exported:?}");
        }
    }
}
