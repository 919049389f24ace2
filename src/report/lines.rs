//! Lines out of a reader that may hold anything: `BufRead::read_line` would take a file without a line break into memory whole.

use std::io::{self, BufRead, Read};

use serde::Serialize;

/// Longest line that is read, in bytes. A record with a dozen candidates has about 4 KiB, so this is no record.
pub const MAX_LINE: usize = 256 << 10;

/// What is wrong with a line that is longer.
pub(super) const TOO_LONG: &str = "longer than any record";

/// A line that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadLine {
    /// Which log.
    pub log: String,
    /// Its number there, from 1.
    pub line: u64,
    /// What is wrong with it, without quoting it.
    pub why: &'static str,
}

/// What the next line is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// There is none.
    End,
    /// Nothing but white space.
    Blank,
    /// More than [`MAX_LINE`]; it has been skipped.
    TooLong,
    /// In the buffer, without its line break.
    Text,
}

/// Reads the next line into `buffer`.
pub(crate) fn next(reader: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Line> {
    buffer.clear();
    // One byte more than allowed, and one for the line break.
    let read = reader.take(MAX_LINE as u64 + 1).read_until(b'\n', buffer)?;
    if read == 0 {
        return Ok(Line::End);
    }
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
    } else if read > MAX_LINE {
        skip_line(reader)?;
        return Ok(Line::TooLong);
    }
    Ok(if buffer.iter().all(u8::is_ascii_whitespace) { Line::Blank } else { Line::Text })
}

/// Why a line is no record. The parser's own message is not used: it quotes the line, and the line is not ours.
pub(super) fn why(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Eof => "cut off",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "not JSON",
        serde_json::error::Category::Data => "JSON, but no access record",
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let chunk = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if chunk.is_empty() {
            return Ok(());
        }
        let (used, found) = memchr::memchr(b'\n', chunk).map_or((chunk.len(), false), |at| (at + 1, true));
        reader.consume(used);
        if found {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(Line, usize)> {
        // A small buffer, so that lines cross its borders.
        let mut reader = io::BufReader::with_capacity(7, text);
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        loop {
            let line = next(&mut reader, &mut buffer).unwrap();
            if line == Line::End {
                return seen;
            }
            seen.push((line, buffer.len()));
        }
    }

    #[test]
    fn lines_end_with_a_break_or_with_the_log() {
        assert_eq!(all(b"ab\n\n \r\ncde"), [(Line::Text, 2), (Line::Blank, 0), (Line::Blank, 2), (Line::Text, 3)]);
        assert_eq!(all(b""), []);
    }

    #[test]
    fn a_long_line_is_skipped_and_the_next_is_read() {
        let longest = "x".repeat(MAX_LINE);
        assert_eq!(all(format!("{longest}\na").as_bytes()), [(Line::Text, MAX_LINE), (Line::Text, 1)]);
        let seen = all(format!("{longest}x\na\n{longest}xx").as_bytes());
        let kinds: Vec<Line> = seen.into_iter().map(|(line, _)| line).collect();
        assert_eq!(kinds, [Line::TooLong, Line::Text, Line::TooLong]);
    }
}
