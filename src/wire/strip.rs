//! Takes out of a stream what Windward itself asked for.
//!
//! Where `include_usage` was spliced into a request, the backend sends one more event, without choices, and some clients index the
//! first choice of every event; where `continuous_usage_stats` was, every event has its usage, which some clients add up. A client that
//! did not ask must get neither. Only here do bytes leave at event borders; every other stream is forwarded as it comes.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use smallvec::{SmallVec, smallvec};

use super::events::members;
use super::json::{USAGE, USAGE_KEY, after};
use super::leave_out::LeaveOut;
use super::sse::{EventBorders, data_lines};

/// Most bytes of an unfinished event that are held back. The event of usage alone has less than a thousand; a larger one that comes in
/// pieces is some other and passes as it comes, without what it says of usage beside its choices where that was asked for. Every open
/// stream may hold as much, and a client may leave hundreds of them unread.
const HELD_BYTES: usize = 64 << 10;

/// Strips the usage event from one stream of chat or text completions.
#[derive(Debug, Default)]
pub struct UsageStripper {
    borders: EventBorders,
    /// The beginning of an event that a cut divides; events within one chunk are never copied.
    held: BytesMut,
    /// The present event outgrew the bound and is being passed on ..
    passing: bool,
    /// .. but for its usage, if that has to go.
    passing_without: Option<Box<LeaveOut>>,
    last_was_stripped: bool,
    asked_for: AskedFor,
}

/// What has to be taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum AskedFor {
    /// The event of its own.
    #[default]
    Event,
    /// And what the events with choices say.
    Each,
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    /// All but these bytes of it stay.
    Loses(Range<usize>),
}

impl UsageStripper {
    /// Before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, and what every other event says of usage goes as well.
    pub fn of_each() -> Self {
        Self { asked_for: AskedFor::Each, ..Self::default() }
    }

    fn fate(&self, event: &[u8]) -> Fate {
        if is_usage_event(event) {
            return Fate::Goes;
        }
        Some(event).filter(|_| self.asked_for == AskedFor::Each).and_then(usage_in).map_or(Fate::Stays, Fate::Loses)
    }

    /// What of the chunk, and of what was held before it, may leave now.
    pub fn feed(&mut self, chunk: &Bytes) -> SmallVec<[Bytes; 4]> {
        let mut out = SmallVec::new();
        let mut at = self.borders.resume(chunk);
        let between_events = self.held.is_empty() && !self.passing;
        let mut event = if between_events { at } else { 0 };
        // The bytes from here up to `event` are to leave; a late LF goes the way of the event that it completes.
        let mut keep = if between_events && self.last_was_stripped { at } else { 0 };
        while let Some(end) = self.borders.next(chunk, at) {
            let fate = if let Some(mut without) = self.passing_without.take() {
                let mut left = Vec::with_capacity(end - keep);
                without.feed(&chunk[keep..end], &mut left);
                without.finish(&mut left);
                give(&mut out, left);
                keep = end;
                Fate::Stays
            } else if self.passing {
                Fate::Stays
            } else if self.held.is_empty() {
                let fate = self.fate(&chunk[event..end]);
                match &fate {
                    Fate::Stays => {}
                    Fate::Goes => {
                        push(&mut out, chunk, keep..event);
                        keep = end;
                    }
                    Fate::Loses(part) => {
                        push(&mut out, chunk, keep..event + part.start);
                        keep = event + part.end;
                    }
                }
                fate
            } else {
                self.held.extend_from_slice(&chunk[event..end]);
                keep = end;
                let whole = self.held.split().freeze();
                let fate = self.fate(&whole);
                leave(&mut out, &whole, &fate);
                fate
            };
            self.passing = false;
            self.last_was_stripped = fate == Fate::Goes;
            (at, event) = (end, end);
        }
        self.hold(chunk, event, keep, &mut out);
        if self.asked_for == AskedFor::Each && out.len() > 1 {
            // Two pieces of every event would be two writes of each.
            out = smallvec![Bytes::from(out.concat())];
        }
        out
    }

    /// What was still held when the stream ended, of an event without its empty line.
    pub fn finish(&mut self) -> SmallVec<[Bytes; 4]> {
        let mut out = SmallVec::new();
        if let Some(mut without) = self.passing_without.take() {
            let mut left = Vec::new();
            without.finish(&mut left);
            give(&mut out, left);
        }
        let rest = self.held.split().freeze();
        leave(&mut out, &rest, &self.fate(&rest));
        out
    }

    /// Gives out the chunk from `keep` up to `event`, where an event begins (or goes on) that the chunk does not finish, and holds
    /// the rest.
    fn hold(&mut self, chunk: &Bytes, event: usize, keep: usize, out: &mut SmallVec<[Bytes; 4]>) {
        if !self.passing && self.held.len() + (chunk.len() - event) > HELD_BYTES {
            self.passing = true;
            if self.asked_for == AskedFor::Each {
                push(out, chunk, keep..event);
                let mut left = Vec::with_capacity(self.held.len());
                let without = self.passing_without.insert(Box::default());
                without.feed(&self.held.split(), &mut left);
                give(out, left);
                return self.pass(chunk, event, out);
            }
            if !self.held.is_empty() {
                out.push(self.held.split().freeze());
            }
        }
        if self.passing {
            return self.pass(chunk, keep, out);
        }
        push(out, chunk, keep..event);
        self.held.extend_from_slice(&chunk[event..]);
    }

    /// Gives out the chunk from `keep` on, all of it of an event that is not held.
    fn pass(&mut self, chunk: &Bytes, keep: usize, out: &mut SmallVec<[Bytes; 4]>) {
        let Some(without) = &mut self.passing_without else { return push(out, chunk, keep..chunk.len()) };
        let mut left = Vec::with_capacity(chunk.len() - keep);
        without.feed(&chunk[keep..], &mut left);
        give(out, left);
    }
}

/// Gives out what was made anew.
fn give(out: &mut SmallVec<[Bytes; 4]>, bytes: Vec<u8>) {
    if !bytes.is_empty() {
        out.push(bytes.into());
    }
}

/// Gives out what stays of an event.
fn leave(out: &mut SmallVec<[Bytes; 4]>, event: &Bytes, fate: &Fate) {
    match fate {
        Fate::Stays => push(out, event, 0..event.len()),
        Fate::Goes => {}
        Fate::Loses(part) => {
            push(out, event, 0..part.start);
            push(out, event, part.end..event.len());
        }
    }
}

fn push(out: &mut SmallVec<[Bytes; 4]>, chunk: &Bytes, range: Range<usize>) {
    if !range.is_empty() {
        out.push(chunk.slice(range));
    }
}

/// Whether an event is a chunk that has usage and no choices. Backends write `"usage":null` into all others, so the gate looks at
/// the value as well, and a parser only at what passes.
fn is_usage_event(event: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        choices: Vec<IgnoredAny>,
        #[serde(borrow)]
        usage: &'a RawValue,
    }
    if !may_have_usage(event) {
        return false;
    }
    let lines = data_lines(event);
    let joined;
    let data = match &lines[..] {
        [line] => line,
        lines => {
            joined = lines.join(&b'\n');
            &joined[..]
        }
    };
    serde_json::from_slice::<Chunk<'_>>(data).is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.get().starts_with('{'))
}

/// Whether an event has usage anywhere, be it in what the model says.
fn may_have_usage(event: &[u8]) -> bool {
    let is_one =
        |found: usize| after(event, found + USAGE_KEY.len(), b':').is_some_and(|value| after(event, value, b'{').is_some());
    USAGE.find_iter(event).any(is_one)
}

/// The place of the member `usage` of an event's object, with the comma that goes with it. None of an event whose data is in more than one
/// line: no backend that has such usage writes it so.
fn usage_in(event: &[u8]) -> Option<Range<usize>> {
    if !may_have_usage(event) {
        return None;
    }
    let lines = data_lines(event);
    let [data] = &lines[..] else { return None };
    // Slices of the event, so that the distance between their beginnings is a place in it.
    let place = |part: &[u8]| part.as_ptr().addr() - event.as_ptr().addr();
    let (name, value) = members(data).find(|(name, value)| *name == b"usage" && value.first() == Some(&b'{'))?;
    let (from, to) = (place(name) - 1, place(value) + value.len());
    if value.last() != Some(&b'}') {
        return None;
    }
    let before = event.get(..from)?.trim_ascii_end();
    if before.last() == Some(&b',') {
        return Some(before.len() - 1..to);
    }
    // The first member of its object: the comma behind it goes, if there is one.
    Some(from..after(event, to, b',').unwrap_or(to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strip(chunks: &[&[u8]]) -> Vec<u8> {
        strip_by(UsageStripper::new(), chunks)
    }

    fn strip_by(mut stripper: UsageStripper, chunks: &[&[u8]]) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        for chunk in chunks {
            for bytes in stripper.feed(&Bytes::copy_from_slice(chunk)) {
                assert!(!bytes.is_empty());
                out.extend_from_slice(&bytes);
            }
        }
        out.extend(stripper.finish().concat());
        out
    }

    const USAGE_EVENT: &str =
        r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;

    #[test]
    fn only_the_event_without_choices_goes() {
        let kept = [
            r#"data: {"choices":[{"delta":{"content":"\"choices\":[],\"usage\":{"}}],"usage":null}"#,
            r#"data: {"choices":[],"prompt_filter_results":[]}"#,
            r#"data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3}}"#,
            r#"data: {"choices":[],"usage":null}"#,
            r#"data: {"usage":{"prompt_tokens":3}}"#,
            r#"data: {"choices":[],"usage":{"prompt_tokens":3}"#,
            "data: [DONE]",
            ": note",
        ];
        for event in kept {
            assert!(!is_usage_event(format!("{event}\n\n").as_bytes()), "{event}");
        }
        for event in [USAGE_EVENT, "id: 1\r\ndata: {\"usage\" : { \"x\":1},\r\ndata: \"choices\": [ ] }\r\n"] {
            assert!(is_usage_event(event.as_bytes()), "{event}");
        }
    }

    #[test]
    fn what_every_event_says_of_usage_goes_wherever_it_stands() {
        let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}"#;
        let spaced = r#""usage" : { "prompt_tokens" : 3 }"#;
        let said = r#"{"delta":{"content":"\"usage\":{\"a\":1}"}}"#;
        let deep = r#"{"delta":{"tool_calls":[{"usage":{"a":1}}]}}"#;
        for (with, without) in [
            (format!(r#"{{"id":"c","choices":[{said}],{usage}}}"#), format!(r#"{{"id":"c","choices":[{said}]}}"#)),
            (format!(r#"{{{usage},"choices":[{deep}]}}"#), format!(r#"{{"choices":[{deep}]}}"#)),
            (format!(r#"{{ {spaced} , "choices":[{{}}] }}"#), r#"{  "choices":[{}] }"#.to_owned()),
            (format!(r#"{{"a":1 , {spaced} , "choices":[{{}}]}}"#), r#"{"a":1  , "choices":[{}]}"#.to_owned()),
            (r#"{"choices":[{}],"usage":null}"#.to_owned(), r#"{"choices":[{}],"usage":null}"#.to_owned()),
            (format!(r#"{{"choices":[],{usage}}}"#), String::new()),
        ] {
            let event = |data: &str| if data.is_empty() { String::new() } else { format!("data: {data}\n\n") };
            let end = "data: [DONE]\n\n";
            let (stream, expected) = (event(&with) + &event(&with) + end, event(&without) + &event(&without) + end);
            for cut in 0..=stream.len() {
                let (one, two) = stream.as_bytes().split_at(cut);
                let out = strip_by(UsageStripper::of_each(), &[one, two]);
                assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {cut}");
            }
            let parsed: Option<serde_json::Value> =
                Some(&without).filter(|text| !text.is_empty()).map(|text| serde_json::from_str(text).unwrap());
            assert!(parsed.is_none_or(|parsed| parsed["usage"].is_null()));
        }
    }

    #[test]
    fn whole_events_are_passed_without_a_copy() {
        let mut stripper = UsageStripper::new();
        let chunk = Bytes::from(format!("data: 1\n\ndata: 2\n\n{USAGE_EVENT}\n\ndata: [DONE]\n\n"));
        let out = stripper.feed(&chunk);
        assert_eq!(out.len(), 2);
        assert_eq!(out[0].as_ptr(), chunk.as_ptr());
        assert_eq!(&out[0][..], b"data: 1\n\ndata: 2\n\n");
        assert_eq!(&out[1][..], b"data: [DONE]\n\n");
        assert!(stripper.finish().is_empty());
    }

    #[test]
    fn an_unfinished_event_is_held_and_a_huge_one_is_not() {
        let mut stripper = UsageStripper::new();
        assert!(stripper.feed(&Bytes::from_static(b"data: ")).is_empty());
        assert_eq!(stripper.feed(&Bytes::from_static(b"1\n\ndata")).concat(), b"data: 1\n\n");
        let huge = Bytes::from(vec![b'x'; HELD_BYTES]);
        assert_eq!(stripper.feed(&huge).iter().map(Bytes::len).sum::<usize>(), HELD_BYTES + 4);
        assert_eq!(stripper.feed(&Bytes::from_static(b"x")).concat(), b"x");
        let next = Bytes::from(format!("\n\n{USAGE_EVENT}\n\ndata: 2\n\n"));
        assert_eq!(stripper.feed(&next).concat(), b"\n\ndata: 2\n\n");
    }

    #[test]
    fn of_an_event_that_is_too_long_to_be_held_the_usage_goes_as_well() {
        let (end, usage) = ("\n\ndata: {\"choices\":[{}]}\n\n", r#""usage":{"prompt_tokens":3}"#);
        let words = "x,{\\\"usage\\\":{}".repeat(HELD_BYTES / 8);
        let start = r#"data: {"choices":[{"delta":{"content":""#;
        for (with, without) in [
            (format!(r#"{start}{words}"}}}}],{usage}}}"#), format!(r#"{start}{words}"}}}}]}}"#)),
            (
                format!(r#"data: {{{usage},"choices":[{{"delta":{{"content":"{words}"}}}}]}}"#),
                format!(r#"{start}{words}"}}}}]}}"#),
            ),
        ] {
            let stream = [&with, "\n\n", &with, end].concat();
            for size in [1, 1000, HELD_BYTES - 1, HELD_BYTES + 1, with.len() - 5, with.len() + 1, with.len() + 3, stream.len()] {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                let left = String::from_utf8(strip_by(UsageStripper::of_each(), &chunks)).unwrap();
                assert!(left == [&without, "\n\n", &without, end].concat(), "in pieces of {size}");
                assert_eq!(strip(&chunks), stream.as_bytes(), "and stays where nobody asked for it");
            }
            let cut = &with.as_bytes()[..with.len() - 1];
            assert_eq!(strip_by(UsageStripper::of_each(), &[&cut[..HELD_BYTES + 9], &cut[HELD_BYTES + 9..]]).last(), Some(&b']'));
        }
    }

    proptest! {
        #[test]
        fn the_rest_is_identical_wherever_it_is_cut(
            before in prop::collection::vec("[a-z{}\" ]{0,20}", 0..4), after in prop::collection::vec("[a-z]{0,20}", 0..3),
            line_end in prop::sample::select(&["\n", "\r\n", "\r"][..]), last_is_ended in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8), by_bytes in any::<bool>(),
            of_each in any::<bool>(),
        ) {
            let event = |text: &String| format!("event: x{line_end}data: {text}{line_end}{line_end}");
            let before: String = before.iter().map(event).collect();
            let mut after: String = after.iter().map(event).collect();
            if !last_is_ended { after.push_str("data: cut"); }
            let end = format!("{line_end}{line_end}");
            let of_choice = |usage: &str| if of_each { format!("data: {{\"choices\":[{{}}]{usage},\"b\":2}}{end}") } else { String::new() };
            let (said, unsaid) = (of_choice(r#","usage":{"a":1}"#), of_choice(""));
            let stream = format!("{said}{before}{said}{USAGE_EVENT}{end}{said}{after}");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            if by_bytes { cuts.extend(0..stream.len()); }
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream.as_bytes()[cut[0]..cut[1]]).collect();
            let stripper = if of_each { UsageStripper::of_each() } else { UsageStripper::new() };
            let left = String::from_utf8(strip_by(stripper, &chunks)).expect("text");
            prop_assert_eq!(left, format!("{unsaid}{before}{unsaid}{unsaid}{after}"));
        }

        #[test]
        fn nothing_else_is_ever_lost(stream in r#"(\n|\r|data: |\{"choices":\[1\]|,"usage":|null|\}){0,30}"#,
                                     cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(strip(&chunks), stream);
            let whole = strip_by(UsageStripper::of_each(), &[stream]);
            prop_assert_eq!(&strip_by(UsageStripper::of_each(), &chunks), &whole, "cuts make no difference");
            prop_assert!(may_have_usage(stream) || whole == stream);
        }
    }
}
