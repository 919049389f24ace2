//! Where the events of a server-sent stream end, without copying or decoding them.
//!
//! An event ends with an empty line, and a line with LF, CRLF or CR. A library that hands out decoded events would have to own
//! their bytes; a gateway only needs the borders, whatever the cuts between the chunks.

use memchr::memchr2;
use smallvec::SmallVec;

/// Finds the ends of events in chunks as they come.
#[derive(Clone, Debug)]
pub struct EventBorders {
    /// Nothing of the present line has been seen.
    line_is_empty: bool,
    /// The last chunk ended with a CR, which an LF may complete.
    after_cr: bool,
}

impl Default for EventBorders {
    fn default() -> Self {
        Self::new()
    }
}

impl EventBorders {
    /// Before the first byte.
    pub const fn new() -> Self {
        Self { line_is_empty: true, after_cr: false }
    }

    /// To be called once with each chunk, before [`EventBorders::next`]: how many of its first bytes (none or one) still belong to
    /// the line before. There is one when the cut fell between CR and LF; if the CR ended an event, that event had been complete
    /// without it, and was not held back for it.
    pub fn resume(&mut self, chunk: &[u8]) -> usize {
        let belongs = self.after_cr && chunk.first() == Some(&b'\n');
        if !chunk.is_empty() {
            self.after_cr = false;
        }
        usize::from(belongs)
    }

    /// The place just after the event that `at` lies in, where it ends within the chunk. To be called again from there, until it
    /// answers `None`.
    pub fn next(&mut self, chunk: &[u8], mut at: usize) -> Option<usize> {
        while at < chunk.len() {
            let Some(length) = memchr2(b'\n', b'\r', &chunk[at..]) else {
                self.line_is_empty = false;
                return None;
            };
            let ends_event = self.line_is_empty && length == 0;
            at += length;
            if chunk[at] == b'\r' {
                match chunk.get(at + 1) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            at += 1;
            self.line_is_empty = true;
            if ends_event {
                return Some(at);
            }
        }
        None
    }
}

/// The values of an event's `data` lines. There is nearly always one; several make one text when they are joined by line feeds.
pub(super) fn data_lines(event: &[u8]) -> SmallVec<[&[u8]; 1]> {
    event.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(data_line).collect()
}

/// The value of a line that is a `data` field.
fn data_line(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data")?;
    match value {
        [] => Some(value),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Absolute places of all borders; a late LF moves the one before it.
    fn borders(chunks: &[&[u8]]) -> Vec<usize> {
        let (mut scanner, mut found, mut start) = (EventBorders::new(), Vec::new(), 0);
        for chunk in chunks {
            let mut at = scanner.resume(chunk);
            if at == 1
                && let Some(last) = found.last_mut()
                && *last == start
            {
                *last += 1;
            }
            while let Some(border) = scanner.next(chunk, at) {
                found.push(start + border);
                at = border;
            }
            start += chunk.len();
        }
        found
    }

    #[test]
    fn an_empty_line_ends_an_event() {
        assert_eq!(borders(&[b"data: 1\n\ndata: 2\n\n"]), [9, 18]);
        assert_eq!(borders(&[b"data: 1\r\n\r\ndata: 2\r\n\r\nx"]), [11, 22]);
        assert_eq!(borders(&[b"data: 1\r\rdata: 2\r\r"]), [9, 18]);
        assert_eq!(borders(&[b"event: a\ndata: 1\r\n\ndata: 2\r\r\n"]), [19, 29]);
        assert_eq!(borders(&[b": note\n", b"\n", b"data"]), [8]);
    }

    #[test]
    fn data_is_what_the_standard_says() {
        let lines = |event: &'static [u8]| data_lines(event).into_vec();
        assert_eq!(lines(b"event: x\ndata: {}\nid: 1\n\n"), [b"{}"]);
        assert_eq!(lines(b"data:a\r\ndata:  b\r\ndata\r\n\r\n"), [b"a".as_slice(), b" b", b""]);
        assert!(lines(b": data: x\ndatas: y\n\n").is_empty());
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(stream in "[\n\rd]{0,30}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(borders(&chunks), borders(&[stream]));
        }
    }
}
