//! The walk through a chunked body: sizes and extensions byte by byte, data in one step.
//!
//! Extensions are read by their grammar and mean nothing to anybody here; hyper leaves them out when it writes the body anew. It
//! accepts any bytes in them, which is why they are read at all: a reader that looks for their end elsewhere finds other chunks.

use super::chars::{TOKEN, is};
use super::refusal::Refusal;

/// Digits of a size, leading zeros included: as many as a number of 64 bits can have.
const MAX_DIGITS: u8 = 16;
/// Bytes of extensions in one body. Nobody uses them; hyper gives up at 16 KiB.
const MAX_EXTENSIONS: u16 = 8 << 10;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Size,
    /// Blanks after a size, a name or a value: an extension has to follow.
    Blank,
    /// After `;`, or blanks after that.
    Name,
    InName,
    /// Blanks after a name.
    AfterName,
    /// After `=`, or blanks after that.
    Value,
    InToken,
    Quoted,
    Escaped,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
}

/// The place in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Of the chunk, while its size is read; of what is left of it, from there on.
    size: u64,
    extensions: u16,
    digits: u8,
    step: Step,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { size: 0, extensions: 0, digits: 0, step: Step::Size }
    }

    /// Goes through `bytes`, up to the end of the last chunk's size line; says how far it came and whether that end is reached.
    /// An error comes with the count of bytes that were right.
    pub(super) fn walk(&mut self, bytes: &[u8]) -> Result<(usize, bool), (usize, Refusal)> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.step == Step::Data {
                let left = (bytes.len() - at) as u64;
                let count = self.size.min(left);
                self.size -= count;
                at += count as usize;
                if self.size == 0 {
                    self.step = Step::DataCr;
                }
                continue;
            }
            self.step = self.after(*byte).ok_or((at, Refusal::Chunk))?;
            at += 1;
            if self.step == Step::Data && self.size == 0 {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// What comes after this byte; `None` when it may not stand here.
    fn after(&mut self, byte: u8) -> Option<Step> {
        let blank = matches!(byte, b' ' | b'\t');
        let token = is(byte, TOKEN);
        if !matches!(self.step, Step::Size | Step::SizeLf | Step::DataCr | Step::DataLf) || matches!(byte, b';' | b' ' | b'\t') {
            self.extensions += 1;
            if self.extensions > MAX_EXTENSIONS {
                return None;
            }
        }
        match (self.step, byte) {
            (Step::Size, digit) if digit.is_ascii_hexdigit() => {
                self.digits += 1;
                self.size = self.size << 4 | u64::from(char::from(digit).to_digit(16)?);
                (self.digits <= MAX_DIGITS).then_some(Step::Size)
            }
            (Step::Size, _) if self.digits == 0 => None,
            (Step::Size | Step::InName | Step::InToken | Step::AfterQuoted, b'\r') => Some(Step::SizeLf),
            (Step::Size | Step::Blank | Step::InName | Step::AfterName | Step::InToken | Step::AfterQuoted, b';') => {
                Some(Step::Name)
            }
            (Step::Size | Step::Blank | Step::InToken | Step::AfterQuoted, _) if blank => Some(Step::Blank),
            (Step::InName | Step::AfterName, b'=') => Some(Step::Value),
            (Step::InName | Step::AfterName, _) if blank => Some(Step::AfterName),
            (Step::Name, _) if blank => Some(Step::Name),
            (Step::Name | Step::InName, _) if token => Some(Step::InName),
            (Step::Value, _) if blank => Some(Step::Value),
            (Step::Value, b'"') | (Step::Escaped, b'\t' | b' '..=b'~' | 0x80..) => Some(Step::Quoted),
            (Step::Value | Step::InToken, _) if token => Some(Step::InToken),
            (Step::Quoted, b'"') => Some(Step::AfterQuoted),
            (Step::Quoted, b'\\') => Some(Step::Escaped),
            (Step::Quoted, b'\t' | b' '..=b'~' | 0x80..) => Some(Step::Quoted),
            (Step::SizeLf, b'\n') => Some(Step::Data),
            (Step::DataCr, b'\r') => Some(Step::DataLf),
            (Step::DataLf, b'\n') => {
                self.digits = 0;
                Some(Step::Size)
            }
            _ => None,
        }
    }
}
