//! Frames of HTTP/2 that bring no stream forward, counted as they come, so that a flood of them can be ended.
//!
//! What reads the frames bounds some floods itself (CONTINUATION, empty DATA, streams reset before anybody saw them) and answers
//! the others as fast as they come: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, frames of unknown types, streams that are refused, and
//! streams that are opened and reset. Only the nine bytes before each frame are looked at here; what is in it is passed over.
//!
//! A frame's price is paid from an allowance. Bytes of bodies and of answers pay it back: a client that reads a stream sends a
//! WINDOW_UPDATE or two for each chunk, and one that measures its line sends a PING now and then, both in proportion to what flows.
//! The allowance is whole again after a second, and a clock is read only when it is used up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// RFC 9113, 4.1: length, type, flags and stream of a frame.
const HEADER: usize = 9;
/// RFC 9113, 3.4: what a client sends before its first frame.
const PREFACE: u32 = 24;

/// RFC 9113, 6: the types and the flag that are told apart here.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// What a frame costs, in bytes that pay for it. It is more than the 17 bytes of the answer to a PING, or a flood would pay for
/// itself, and no more than the least that goes out for a request, or for a chunk with the WINDOW_UPDATE that it causes.
const PRICE: u32 = 32;
/// A stream that is reset cost more than its frame: a request was begun for it.
const PRICE_OF_RESET: u32 = 4 * PRICE;
/// So many frames are always granted: a second's worth for any client known, and a thousandth of a second's work.
const FRAMES: u32 = 1000;
/// How long it takes until the allowance is whole again.
const PERIOD: Duration = Duration::from_secs(1);

/// Streams of a server whose heads are counted at once. We open them, so that there are more only if a stream was reset by us
/// before its first data; of those the oldest are forgotten.
const HEADED: usize = 256;

/// Heads that a server sent on each stream before anything else: all but the last are informational, and whoever reads them passes
/// over any number.
#[derive(Debug)]
struct Heads {
    most: u8,
    streams: VecDeque<(u32, u8)>,
}

impl Heads {
    /// A frame came on a stream; false when it is one head too many.
    fn frame(&mut self, kind: u8, flags: u8, stream: u32) -> bool {
        let known = self.streams.iter().position(|(known, _)| *known == stream);
        if kind == HEADERS && flags & END_STREAM == 0 {
            if let Some((_, heads)) = known.and_then(|known| self.streams.get_mut(known)) {
                *heads = heads.saturating_add(1);
                return *heads <= self.most;
            }
            if self.streams.len() == HEADED {
                self.streams.pop_front();
            }
            self.streams.push_back((stream, 1));
        } else if matches!(kind, DATA | HEADERS | RST_STREAM)
            && let Some(known) = known
        {
            self.streams.remove(known);
        }
        true
    }
}

/// What one connection's peer has sent of frames without progress.
#[derive(Debug)]
pub struct Frames {
    allowance: u32,
    spent: u32,
    since: Instant,
    /// Bytes to be passed over before the next header.
    skip: u32,
    header: [u8; HEADER],
    have: u8,
    /// `None` where the peer is a client, whose heads are requests.
    heads: Option<Heads>,
    /// Whether a stream had more heads than it may have.
    headed: bool,
}

impl Frames {
    /// Of a server, which sends no preface, and before each response that many informational ones at most; else as [`Frames::new`].
    pub fn of_server(streams: u32, informational: u8, now: Instant) -> Self {
        let heads = Heads { most: informational.saturating_add(1), streams: VecDeque::new() };
        Self { skip: 0, heads: Some(heads), ..Self::new(streams, now) }
    }

    /// Of a client, before the first byte, at `now`. All of the `streams` that may be open at once may also be reset at once.
    pub const fn new(streams: u32, now: Instant) -> Self {
        let allowance = (FRAMES * PRICE).saturating_add(streams.saturating_mul(PRICE_OF_RESET));
        Self { allowance, spent: 0, since: now, skip: PREFACE, header: [0; HEADER], have: 0, heads: None, headed: false }
    }

    /// Takes the next bytes that came; false once the allowance is used up within a second, which is what a flood does, and once a
    /// stream had too many heads.
    pub fn feed(&mut self, mut bytes: &[u8], now: impl FnOnce() -> Instant) -> bool {
        loop {
            let passed = bytes.len().min(self.skip as usize);
            self.skip -= passed as u32;
            bytes = bytes.get(passed..).unwrap_or_default();
            let Some(space) = self.header.get_mut(usize::from(self.have)..) else { break };
            let count = space.len().min(bytes.len());
            let (some, rest) = bytes.split_at(count);
            if let Some(space) = space.get_mut(..count) {
                space.copy_from_slice(some);
            }
            (bytes, self.have) = (rest, self.have + count as u8);
            if usize::from(self.have) < HEADER {
                break;
            }
            self.frame();
        }
        !self.headed && (self.spent <= self.allowance || self.renew(now()))
    }

    /// So many bytes went to the peer.
    pub const fn sent(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_sub(bytes as u32);
    }

    /// A header is whole.
    fn frame(&mut self) {
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        if let Some(heads) = &mut self.heads {
            self.headed |= !heads.frame(kind, flags, u32::from_be_bytes(stream));
        }
        let length = u32::from_be_bytes([0, high, middle, low]);
        (self.have, self.skip) = (0, length);
        if kind == DATA && (length > 0 || flags & END_STREAM != 0) {
            self.spent = self.spent.saturating_sub(length);
        } else {
            self.spent = self.spent.saturating_add(if kind == RST_STREAM { PRICE_OF_RESET } else { PRICE });
        }
    }

    /// The allowance is used up: was it within a second?
    fn renew(&mut self, now: Instant) -> bool {
        let long_ago = now.saturating_duration_since(self.since) >= PERIOD;
        if long_ago {
            (self.spent, self.since) = (0, now);
        }
        long_ago
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    const PRIORITY: u8 = 2;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut frame = vec![0, high, low, kind, flags, 0, 0, 0, 1];
        // Payload that would read as headers of resets, were it looked at.
        frame.resize(HEADER + usize::from(length), RST_STREAM);
        frame
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = Frames::new(0, now);
        assert!(frames.feed(&[PING; PREFACE as usize], || unreachable!()));
        frames
    }

    /// How many of these frames a connection takes that is sent `answer` bytes after each, before it is ended within one second.
    fn taken(streams: u32, frame: &[u8], answer: usize) -> usize {
        let now = SystemClock.monotonic();
        let mut frames = Frames::new(streams, now);
        frames.feed(&[0; PREFACE as usize], || now);
        (0..100_000)
            .position(|_| {
                let goes_on = frames.feed(frame, || now);
                frames.sent(answer);
                !goes_on
            })
            .unwrap_or(usize::MAX)
    }

    #[test]
    fn floods_end_and_their_answers_do_not_pay_for_them() {
        assert_eq!(taken(0, &frame(PRIORITY, 0, 5), 0), 1000);
        assert_eq!(taken(0, &frame(0xfa, 0, 5000), 0), 1000);
        assert_eq!(taken(0, &frame(DATA, 0, 0), 0), 1000);
        assert_eq!(taken(0, &frame(HEADERS, END_STREAM, 20), 13), 1683, "each refused by a reset");
        assert_eq!(taken(0, &frame(PING, 0, 8), 17), 2132);
        let opened_and_reset = [frame(HEADERS, END_STREAM, 20), frame(RST_STREAM, 0, 4)].concat();
        assert_eq!(taken(0, &opened_and_reset, 0), 200);
        assert_eq!(taken(256, &frame(RST_STREAM, 0, 4), 0), 256 + 250);
    }

    #[test]
    fn a_stream_has_so_many_heads_before_its_data_however_slowly_they_come() {
        let mut now = SystemClock.monotonic();
        let mut head = |frames: &mut Frames, stream: u8| {
            now += PERIOD;
            let mut frame = frame(HEADERS, 0, 20);
            frame[8] = stream;
            frames.feed(&frame, || now)
        };
        let mut frames = Frames::of_server(100, 2, SystemClock.monotonic());
        for _ in 0..3 {
            assert!(head(&mut frames, 1) && head(&mut frames, 3), "each has its own");
        }
        assert!(frames.feed(&frame(DATA, 0, 9), || unreachable!()));
        assert!(head(&mut frames, 1), "it is another matter what comes after the data");
        assert!(!head(&mut frames, 3));
        let mut frames = Frames::of_server(100, 2, SystemClock.monotonic());
        assert!((0..=255).all(|stream| head(&mut frames, stream)) && (0..=255).all(|stream| head(&mut frames, stream)));
        assert_eq!(frames.heads.map(|heads| heads.streams.len()), Some(HEADED));
    }

    #[test]
    fn what_comes_with_progress_never_ends_it() {
        assert_eq!(taken(0, &frame(HEADERS, END_STREAM, 20), 40), usize::MAX, "a request and its answer");
        assert_eq!(taken(0, &frame(WINDOW_UPDATE, 0, 4).repeat(2), 64), usize::MAX, "a chunk that is read");
        let upload = [frame(DATA, 0, 1000), frame(PING, 0, 8)].concat();
        assert_eq!(taken(0, &upload, 0), usize::MAX);
        assert_eq!(taken(0, &frame(DATA, END_STREAM, 0), 0), usize::MAX, "it ends a stream, and there is one for each");
    }

    #[test]
    fn the_allowance_is_whole_again_after_a_second_and_the_clock_is_asked_only_then() {
        let now = SystemClock.monotonic();
        let mut frames = begun(now);
        for _ in 0..1000 {
            assert!(frames.feed(&frame(PING, 0, 8), || unreachable!()));
        }
        assert!(frames.feed(&frame(PING, 0, 8), || now + PERIOD));
        for _ in 0..1000 {
            assert!(frames.feed(&frame(PING, 0, 8), || unreachable!()));
        }
        assert!(!frames.feed(&frame(PING, 0, 8), || now + PERIOD + PERIOD / 2));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_bytes_are_cut(
            sent in prop::collection::vec((0_u8..12, any::<u8>(), 0_u16..40), 0..40),
            sizes in prop::collection::vec(1_usize..30, 1..8),
        ) {
            let now = SystemClock.monotonic();
            let bytes: Vec<u8> = sent.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, *length)).collect();
            let mut whole = begun(now);
            whole.feed(&bytes, || now);
            let (mut cut, mut rest, mut sizes) = (begun(now), bytes.as_slice(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                cut.feed(piece, || now);
                rest = after;
            }
            prop_assert_eq!((cut.have, cut.skip, cut.spent), (0, 0, whole.spent));
        }
    }
}
