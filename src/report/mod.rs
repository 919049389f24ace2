//! What the access log says, added up: one pass over any number of logs, in bounded memory.
//!
//! It needs nothing but the lines, since each of them carries the intensities and the baseline that its grams rest on; asking a
//! source again could only replace what was known at the decision by what was known later. The rules of honest numbers are held
//! here and not left to whoever renders: what was made up is added up apart, signals and bases are never added to one another, a
//! line seen twice counts once, and what could not be read or is missing is said.

mod completeness;
mod figures;
pub(crate) mod lines;
pub mod reconcile;
pub mod render;
mod summary;

pub use figures::{Completeness, Figures, FirstToken, Grouped, Interval, Lines, Report, Section, Traffic};
pub use lines::{BadLine, MAX_LINE};
pub use summary::{Dimension, Kind, Summary};

use std::io::{self, BufRead};

use crate::record::AccessRecord;
use lines::{Line, TOO_LONG, why};

/// Adds every line of one log to the summary. `name` is what the report calls the log when it names a line of it. It stops only
/// when the reader fails; lines that are too long or are no records are counted, and the first few are named.
pub fn summarise(name: &str, mut reader: impl BufRead, summary: &mut Summary) -> io::Result<()> {
    summary.begin_log();
    let mut buffer = Vec::new();
    let mut number = 0;
    loop {
        number += 1;
        match lines::next(&mut reader, &mut buffer)? {
            Line::End => return Ok(()),
            Line::Blank => {}
            Line::TooLong => summary.add_bad(name, number, TOO_LONG),
            Line::Text => match AccessRecord::of_line(&buffer) {
                Ok(record) => summary.add(&record),
                Err(error) => summary.add_bad(name, number, why(&error)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
