//! JSON as the access log's lines are written in: text, numbers and times put one behind the other into a buffer that has room.
//!
//! A line is some 3 KB of eighty short fields, and the whole proxy has a few microseconds of its own for each request. So a key and
//! the punctuation around it are one constant, texts are looked at eight bytes at a time for something to escape, and what comes
//! again and again (the intensity of a grid, the PUE of a building, the second in which this request came) is kept as it was
//! written. What is written is, byte for byte, what `serde_json` writes of the same values.

use std::borrow::Borrow;
use std::io::Write as _;

use jiff::Timestamp;

use crate::units::Millis;

/// Room that is there before the first line: a line with eight candidates fits.
const ROOM: usize = 8 << 10;
/// A line may be as long as its fields are, and a path may be as long as a head. What one such line took is not kept.
const KEPT_ROOM: usize = 64 << 10;
/// Numbers kept as text, a power of two. A few dozen backends have as many intensities and PUEs.
const NUMBERS: usize = 128;
/// Longest text of a finite number, shortest digits: `-2.2250738585072014e-308`.
const NUMBER_LEN: usize = 24;
/// Seconds kept as text: this one, and those in which the grid's readings were made.
const SECONDS: usize = 8;
/// `2026-11-26T10:00:00`.
const SECOND_LEN: usize = 19;

/// Where a line is put together, with what is worth keeping between two of them.
#[derive(Debug)]
pub struct Json {
    /// Zeroes behind `end`.
    bytes: Vec<u8>,
    end: usize,
    numbers: Box<[Number; NUMBERS]>,
    seconds: [Second; SECONDS],
    /// The one that is forgotten next.
    oldest: usize,
}

/// A number and its text. None has the bits of the first one, which is no number, and no text.
#[derive(Clone, Copy, Debug)]
struct Number {
    bits: u64,
    text: [u8; NUMBER_LEN],
    len: u8,
}

#[derive(Clone, Copy, Debug)]
struct Second {
    second: i64,
    text: [u8; SECOND_LEN],
}

impl Default for Json {
    fn default() -> Self {
        Self {
            bytes: vec![0; ROOM],
            end: 0,
            numbers: Box::new([Number { bits: f64::NAN.to_bits(), text: [0; NUMBER_LEN], len: 0 }; NUMBERS]),
            seconds: [Second { second: i64::MIN, text: [0; SECOND_LEN] }; SECONDS],
            oldest: 0,
        }
    }
}

impl Json {
    /// What was put so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.end).unwrap_or_default()
    }

    /// What `put` puts, taken out again.
    pub fn apart(&mut self, put: impl FnOnce(&mut Self)) -> Box<[u8]> {
        let from = self.end;
        put(self);
        let text = self.bytes.get(from..self.end).unwrap_or_default().into();
        self.end = from;
        text
    }

    /// Forgets what was put.
    pub fn clear(&mut self) {
        self.end = 0;
        if self.bytes.len() > KEPT_ROOM {
            self.bytes = vec![0; ROOM];
        }
    }

    /// Puts what stands in JSON as it is: keys, punctuation, words of our own.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// As [`Self::raw`], for a constant: its length known, it is a few moves and not a call.
    #[expect(
        clippy::inline_always,
        reason = "inlined its length is known, and copying it is a few moves; there are eighty in a line"
    )]
    #[inline(always)]
    pub fn constant<const LEN: usize>(&mut self, bytes: &[u8; LEN]) {
        // One look at the room there is, where `room` and the copy after it take two.
        match self.bytes.get_mut(self.end..).and_then(<[u8]>::first_chunk_mut::<LEN>) {
            Some(to) => {
                *to = *bytes;
                self.end += LEN;
            }
            None => self.beyond(bytes),
        }
    }

    /// Puts what there is no room for.
    #[cold]
    fn beyond(&mut self, bytes: &[u8]) {
        self.grow(bytes.len());
        self.raw(bytes);
    }

    /// The next `len` bytes.
    #[expect(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < len {
            self.grow(len);
        }
        #[expect(clippy::indexing_slicing, reason = "there is room now")]
        &mut self.bytes[self.end..self.end + len]
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        self.bytes.resize((self.end + len).next_power_of_two(), 0);
    }

    /// Puts a text, between quotation marks.
    pub fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let len = bytes.len();
        // Most are so short that they are looked at and put as one word or two, which overlap.
        let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            (Some(first), Some(last)) if len <= 16 => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            (None, _) => {
                let word = short(bytes);
                (word, word)
            }
            _ if is_plain(bytes) => return self.quoted(bytes),
            _ => return self.escaped(text),
        };
        if special(first) | special(last) != 0 {
            return self.escaped(text);
        }
        // One look at the room for both words and the marks around them.
        if let Some([mark, words @ ..]) = self.room(18).first_chunk_mut::<18>() {
            *mark = b'"';
            if let Some(word) = words.first_chunk_mut::<8>() {
                *word = first.to_le_bytes();
            }
            if let Some(word) = words.get_mut(len.saturating_sub(8)..).and_then(<[u8]>::first_chunk_mut::<8>) {
                *word = last.to_le_bytes();
            }
            if let Some(mark) = words.get_mut(len) {
                *mark = b'"';
            }
        }
        self.end += len + 2;
    }

    /// Puts bytes that need no escape between quotation marks.
    #[inline]
    fn quoted(&mut self, bytes: &[u8]) {
        let len = bytes.len() + 2;
        if let [first, middle @ .., last] = self.room(len) {
            *first = b'"';
            middle.copy_from_slice(bytes);
            *last = b'"';
        }
        self.end += len;
    }

    #[cold]
    fn escaped(&mut self, text: &str) {
        // Text cannot fail to be written into memory.
        let escaped = serde_json::to_vec(text).unwrap_or_default();
        self.raw(&escaped);
    }

    /// Puts a word of our own, which needs no escape, between quotation marks.
    pub fn word(&mut self, word: &'static str) {
        self.quoted(word.as_bytes());
    }

    /// Puts `true` or `false`.
    pub fn boolean(&mut self, value: bool) {
        self.raw(if value { b"true" } else { b"false" });
    }

    /// Puts an array, from within the iterator: an item that is taken out of it is moved at every stage.
    pub fn list<T>(&mut self, items: impl Iterator<Item: Borrow<T>>, mut put: impl FnMut(&mut Self, &T)) {
        // Folded, where `for_each` would move each item once more: a candidate is 400 bytes.
        let first = items.fold(true, |first, item| {
            self.constant(if first { b"[" } else { b"," });
            put(self, item.borrow());
            false
        });
        if first {
            self.constant(b"[");
        }
        self.constant(b"]");
    }

    /// Puts a whole number.
    #[inline]
    pub fn integer(&mut self, value: impl Into<u64>) {
        let value = value.into();
        match u32::try_from(value) {
            // A third of a line's: nothing in flight, no token.
            Ok(value) if value < 10 => self.constant(&[b'0' + value as u8]),
            Ok(value) if value < EIGHT_DIGITS => {
                let digits = digits(value);
                // The last one stays, be it a zero.
                let zeroes = (digits.trailing_zeros() / 8).min(7);
                self.constant(&((digits | ZEROES) >> (8 * zeroes)).to_le_bytes());
                self.end -= zeroes as usize;
            }
            _ => self.raw(itoa::Buffer::new().format(value).as_bytes()),
        }
    }

    /// Puts a number by its shortest digits that read back as the same one; what is no number is `null`.
    pub fn float(&mut self, value: f64) {
        if !value.is_finite() {
            return self.constant(b"null");
        }
        let bits = value.to_bits();
        // Fibonacci hashing: numbers that differ little differ in their last bits, round ones in their first.
        let slot = (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as usize % NUMBERS;
        #[expect(clippy::indexing_slicing, reason = "a remainder")]
        let kept = &mut self.numbers[slot];
        if kept.bits != bits {
            let mut buffer = zmij::Buffer::new();
            let text = buffer.format_finite(value).as_bytes();
            kept.bits = bits;
            kept.len = text.len() as u8;
            if let Some(to) = kept.text.get_mut(..text.len()) {
                to.copy_from_slice(text);
            }
        }
        let (text, len) = (kept.text, usize::from(kept.len));
        self.room(NUMBER_LEN).copy_from_slice(&text);
        self.end += len;
    }

    /// Puts a span of time, which mostly is one of whole microseconds and hardly ever one that was there before.
    pub fn millis(&mut self, value: Millis) {
        /// Up to here a number of microseconds has fifteen digits at most, and so no shorter text than its own.
        const MOST_MS: f64 = 1e12;
        let value = value.get();
        let micros = (value * 1e3 + 0.5) as u64;
        // Another number, for one that has a smaller part.
        #[expect(clippy::float_cmp, reason = "asked is whether it is the same number")]
        if !(value.is_sign_positive() && value < MOST_MS && micros as f64 / 1e3 == value) {
            return self.float(value);
        }
        // Eight digits, of which the last three are the part.
        let part = match u32::try_from(micros) {
            Ok(micros) if micros < EIGHT_DIGITS => {
                let digits = digits(micros);
                // The last one before the point stays, be it a zero.
                let zeroes = (digits.trailing_zeros() / 8).min(4);
                self.constant(&((digits | ZEROES) >> (8 * zeroes)).to_le_bytes());
                self.end -= zeroes as usize + 3;
                digits >> 32
            }
            _ => {
                self.integer(micros / 1000);
                digits((micros % 1000) as u32) >> 32
            }
        };
        // A point and these, without zeroes at the end, but for the first.
        let zeroes = ((part as u32).leading_zeros() / 8).min(2);
        let [_, digits @ ..] = (part as u32 | ZEROES as u32).to_le_bytes();
        let [first, second, third] = digits;
        self.constant(&[b'.', first, second, third]);
        self.end -= zeroes as usize;
    }

    /// Puts a moment, between quotation marks.
    pub fn time(&mut self, at: Timestamp) {
        let (second, nanos) = (at.as_second(), at.subsec_nanosecond());
        // Before 1970 the fraction counts backwards.
        let (true, Ok(nanos)) = (second >= 0, u32::try_from(nanos)) else {
            // Memory cannot fail to be written.
            let _ = write!(self, "\"{at}\"");
            return;
        };
        let text = self.second(second);
        self.constant(b"\"");
        self.constant(&text);
        if nanos > 0 {
            self.fraction(nanos);
        }
        self.constant(b"Z\"");
    }

    /// Puts billionths without zeroes at the end.
    fn fraction(&mut self, nanos: u32) {
        let (eight, last) = (digits(nanos / 10), (nanos % 10) as u8);
        self.constant(b".");
        self.constant(&(eight | ZEROES).to_le_bytes());
        if last > 0 {
            self.constant(&[b'0' + last]);
        } else {
            self.end -= (eight.leading_zeros() / 8) as usize;
        }
    }

    fn second(&mut self, second: i64) -> [u8; SECOND_LEN] {
        if let Some(kept) = self.seconds.iter().find(|kept| kept.second == second) {
            return kept.text;
        }
        let mut text = [0; SECOND_LEN];
        if let Ok(at) = Timestamp::from_second(second) {
            let _ = write!(&mut text[..], "{at}");
        }
        if let Some(kept) = self.seconds.get_mut(self.oldest) {
            *kept = Second { second, text };
        }
        self.oldest = (self.oldest + 1) % SECONDS;
        text
    }
}

impl std::io::Write for Json {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.raw(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Numbers below have eight digits at most.
const EIGHT_DIGITS: u32 = 100_000_000;
/// The sign `0` eight times.
const ZEROES: u64 = u64::from_le_bytes(*b"00000000");

/// The eight decimal digits of a number below [`EIGHT_DIGITS`], the first one in the lowest byte, all at once: halves of four, in each
/// of them halves of two, in each of these the two digits. Division by a constant is a multiplication and a shift that is exact for
/// numbers so small.
const fn digits(number: u32) -> u64 {
    let fours = (number / 10_000) as u64 | ((number % 10_000) as u64) << 32;
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds | (fours - 100 * hundreds) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | (twos - 10 * tens) << 8
}

/// Whether a text stands in JSON as it is, eight bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    let mut found = 0;
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk::<8>() {
        found |= special(u64::from_le_bytes(*word));
        rest = more;
    }
    if !rest.is_empty() {
        found |= match text.last_chunk::<8>() {
            // It overlaps what was looked at.
            Some(last) => special(u64::from_le_bytes(*last)),
            None => special(short(rest)),
        };
    }
    found == 0
}

/// Fewer than eight bytes as a word, and blanks behind them.
fn short(text: &[u8]) -> u64 {
    let four = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    let blanks = u64::from_le_bytes(*b"        ") << (8 * text.len());
    blanks
        | match (text.first_chunk::<4>(), text.last_chunk::<4>(), text) {
            (Some(first), Some(last), _) => four(first) | four(last) << (8 * (text.len() - 4)),
            (_, _, [first, second, third]) => u64::from(*first) | u64::from(*second) << 8 | u64::from(*third) << 16,
            (_, _, [first, second]) => u64::from(*first) | u64::from(*second) << 8,
            (_, _, [only]) => u64::from(*only),
            _ => 0,
        }
}

/// Not zero when one of the eight bytes is below 0x20, a quotation mark or a backslash. It may also point out a byte behind such a
/// one, which does no harm. Bytes of 0x80 and more are none of these.
const fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let slash = word ^ (ONES * b'\\' as u64);
    let slash = slash.wrapping_sub(ONES) & !slash;
    (below | quote | slash) & TOPS
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
