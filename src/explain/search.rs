//! One pass through a log for the lines of one id.

use std::io::{self, BufRead};

use memchr::memmem::Finder;

use crate::record::AccessRecord;
use crate::report::lines::{self, Line};

/// Lines of one id that are kept. The proxy's own ids differ, but a client may send every request under one of its own.
pub const MOST_FOUND: usize = 16;

/// A line of that id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number, from 1.
    pub line: u64,
    /// A record.
    pub text: Vec<u8>,
}

/// What a log has of an id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The first [`MOST_FOUND`] lines.
    pub found: Vec<Found>,
    /// How many more there are.
    pub more: u64,
    /// Lines that may be of that id and cannot be read: they hold its text and are no records, or are longer than any record.
    pub unreadable: u64,
}

/// Reads a log to its end for the lines whose own id, client's id or backend's id is `id`. Fails only when the reader does.
pub fn search(mut reader: impl BufRead, id: &str) -> io::Result<Search> {
    // Such an id stands in the line as it is, so that nearly all lines need not be parsed; another may be there with escapes.
    let is_plain =
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'));
    let finder = is_plain.then(|| Finder::new(id));
    let (mut buffer, mut number, mut search) = (Vec::new(), 0, Search::default());
    loop {
        number += 1;
        match lines::next(&mut reader, &mut buffer)? {
            Line::End => return Ok(search),
            Line::Blank => {}
            Line::TooLong => search.unreadable += 1,
            Line::Text if finder.as_ref().is_some_and(|finder| finder.find(&buffer).is_none()) => {}
            Line::Text => match serde_json::from_slice::<AccessRecord<'_>>(&buffer) {
                Ok(record) if !is_of(&record, id) => {}
                Ok(_) if search.found.len() < MOST_FOUND => search.found.push(Found { line: number, text: buffer.clone() }),
                Ok(_) => search.more += 1,
                Err(_) => search.unreadable += 1,
            },
        }
    }
}

fn is_of(record: &AccessRecord<'_>, id: &str) -> bool {
    let others = [&record.client_request_id, &record.provider_request_id];
    &*record.id == id || others.into_iter().flatten().any(|other| &**other == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../tests/cases/log/sample.jsonl");

    fn lines(log: &str, id: &str) -> Vec<u64> {
        search(log.as_bytes(), id).unwrap().found.iter().map(|found| found.line).collect()
    }

    #[test]
    fn a_line_is_found_by_each_of_its_ids_and_by_nothing_else() {
        assert_eq!(lines(SAMPLE, "01JD0-0001"), [1]);
        assert_eq!(lines(SAMPLE, "c-4"), [4]);
        assert_eq!(lines(SAMPLE, "req_000004"), [4]);
        assert_eq!(lines(SAMPLE, "01JD0-0002").len(), 2, "the sample has it twice");
        for other in ["01JD0", "gpt-4o", "edge-1", "", "01JD0-0001 "] {
            assert_eq!(lines(SAMPLE, other), [0; 0], "{other}");
        }
    }

    #[test]
    fn an_id_with_escapes_is_found_too() {
        let log = include_str!("../../tests/cases/log/full.json").replace('\n', " ");
        assert_eq!(lines(&log, "say \"when\""), [1]);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_cannot_be_read_is_counted() {
        let line = SAMPLE.lines().next().unwrap();
        let log = format!("{line}\n").repeat(MOST_FOUND + 3) + &line[..line.len() / 2] + "\nnot JSON\n" + &"x".repeat(300 << 10);
        let search = search(log.as_bytes(), "01JD0-0001").unwrap();
        assert_eq!((search.found.len(), search.more, search.unreadable), (MOST_FOUND, 3, 2));
    }
}
