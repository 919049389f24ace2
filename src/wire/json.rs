//! The few moves through JSON text that the scanners share: each goes forward over bytes and none builds anything.

use memchr::{memchr, memmem};
use std::sync::LazyLock;

/// JSON white space.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The place of the first byte at or after `at` that is not white space; the length where there is none, also where `at` is beyond it.
pub(super) fn skip_space(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().position(|byte| !is_space(*byte)).map_or(text.len(), |skipped| at + skipped)
}

/// The place after `byte`, if that is what comes at or after `at` once white space is passed over.
pub(super) fn after(text: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = skip_space(text, at);
    (text.get(at) == Some(&byte)).then_some(at + 1)
}

/// The place after the closing quote of a string whose inside begins (or goes on) at `at`; `None` where the text ends first.
///
/// `escaped` carries over the cut whether the byte before it was a backslash that escapes the next one.
#[inline]
pub(super) fn string_end(text: &[u8], at: usize, escaped: &mut bool) -> Option<usize> {
    let begin = at + usize::from(*escaped);
    let inside = text.get(begin..)?;
    let mut from = 0;
    // The quote is looked for, and from there the backslashes, of which there are far more: a prompt has one in each of its lines.
    while let Some(found) = memchr(b'"', &inside[from..]) {
        let quote = from + found;
        if inside.get(quote.wrapping_sub(1)) != Some(&b'\\') || !ends_escaping(&inside[..quote]) {
            *escaped = false;
            return Some(begin + quote + 1);
        }
        from = quote + 1;
    }
    *escaped = ends_escaping(inside);
    None
}

/// Whether the inside of a string ends in a backslash that escapes what comes after it.
fn ends_escaping(inside: &[u8]) -> bool {
    inside.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The kinds of the open arrays and objects, one bit each, so that a closing bracket is held against its opening one without a stack
/// on the heap.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nest {
    objects: u128,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

/// How a walk through a nested value ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// The value ended; the next byte is at this place.
    Ended(usize),
    /// The text ended within the value.
    Cut,
    /// A closing bracket of the wrong kind at this place.
    Mismatch(usize),
    /// The bracket at this place opens one level too many.
    TooDeep(usize),
}

impl Nest {
    /// serde_json and most other readers refuse deeper nesting too.
    pub(super) const MAX_DEPTH: u32 = u128::BITS;

    /// Goes on at `at`, to the end of the value or of the text. A new nest is to start on the opening bracket.
    pub(super) fn walk(&mut self, text: &[u8], mut at: usize) -> Walk {
        loop {
            if self.in_string {
                match string_end(text, at, &mut self.escaped) {
                    Some(next) => at = next,
                    None => return Walk::Cut,
                }
                self.in_string = false;
            }
            let Some(skipped) = text[at..].iter().position(|byte| STRUCTURAL[usize::from(*byte)]) else {
                return Walk::Cut;
            };
            let place = at + skipped;
            at = place + 1;
            match text[place] {
                b'"' => self.in_string = true,
                bracket @ (b'{' | b'[') => {
                    if self.depth == Self::MAX_DEPTH {
                        return Walk::TooDeep(place);
                    }
                    self.objects = self.objects << 1 | u128::from(bracket == b'{');
                    self.depth += 1;
                }
                bracket => {
                    if (self.objects & 1 == 1) != (bracket == b'}') {
                        return Walk::Mismatch(place);
                    }
                    self.objects >>= 1;
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Walk::Ended(at);
                    }
                }
            }
        }
    }
}

/// How deep a text is nested, and what stands in its top object itself. The kinds of the brackets are not held against each other as by
/// [`Nest`], so that no depth is too great: what it reads has been written by a backend, but what a model was made to say goes as deep as
/// its client likes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Depth {
    open: u64,
    in_array: bool,
    in_string: bool,
    escaped: bool,
}

impl Depth {
    /// The next bracket, or the quote that begins a string, and the place after it. Outside of all brackets, where an event stream has
    /// the names of its lines, a quote means nothing.
    pub(super) fn step(&mut self, text: &[u8], mut at: usize) -> Option<(u8, usize)> {
        loop {
            if self.in_string {
                at = string_end(text, at, &mut self.escaped)?;
                self.in_string = false;
            }
            let place = at + text.get(at..)?.iter().position(|byte| STRUCTURAL[usize::from(*byte)])?;
            at = place + 1;
            match text[place] {
                b'"' if self.open == 0 => continue,
                b'"' => self.in_string = true,
                bracket @ (b'{' | b'[') => {
                    self.in_array = if self.open == 0 { bracket == b'[' } else { self.in_array };
                    self.open += 1;
                }
                _ => self.open = self.open.saturating_sub(1),
            }
            return Some((text[place], at));
        }
    }

    /// The string that began last was read to its end by someone else.
    pub(super) const fn close_string(&mut self) {
        self.in_string = false;
    }

    /// Whether this is within the top object, or an element of the top array, and in nothing within that.
    pub(super) const fn is_own(&self) -> bool {
        self.open == 1 + self.in_array as u64
    }

    /// Whether this is within the top array, and in no element of it.
    pub(super) const fn is_between_elements(&self) -> bool {
        self.in_array && self.open == 1
    }

    /// Whether this is within an element of the top array.
    pub(super) const fn is_in_element(&self) -> bool {
        self.in_array && self.open > 1
    }

    /// Whether the top array is still open.
    pub(super) const fn is_in_array(&self) -> bool {
        self.in_array && self.open > 0
    }
}

/// The members of an object, each as its name (as written, without the quotes) and its value, as long as they are well made. `object`
/// begins with the brace.
pub(super) fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 1;
    std::iter::from_fn(move || {
        let key = after(object, at, b'"')?;
        let key_end = string_end(object, key, &mut false)?;
        let value = skip_space(object, after(object, key_end, b':')?);
        let value_end = match object.get(value)? {
            b'{' | b'[' => match Nest::default().walk(object, value) {
                Walk::Ended(end) => end,
                _ => return None,
            },
            b'"' => string_end(object, value + 1, &mut false)?,
            _ => value + object[value..].iter().position(|byte| matches!(byte, b',' | b'}') || is_space(*byte))?,
        };
        // Past the comma; past the brace there is no other key.
        at = skip_space(object, value_end) + 1;
        Some((&object[key..key_end - 1], &object[value..value_end]))
    })
}

static STRUCTURAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};

/// The member name that leads to token counts, as it is written. Within a JSON string the quotes would be escaped, and the second
/// backslash would break the match: a completion of OpenAI's APIs cannot forge it. In the others the arguments of a tool are no string,
/// and only the top object's own member is taken.
pub(super) const USAGE_KEY: &[u8] = b"\"usage\"";

/// A prepared search for [`USAGE_KEY`].
pub(super) static USAGE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(USAGE_KEY));

/// The same for Gemini.
pub(super) const USAGE_METADATA_KEY: &[u8] = b"\"usageMetadata\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_end_where_the_text_does() {
        let of = |text| members(text).map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>();
        let one = |name: &[u8], value: &[u8]| vec![(name.to_vec(), value.to_vec())];
        assert_eq!(of(br#"{"a": 1, "b": "c"}"#).len(), 2);
        assert_eq!(of(br#"{"p":"abcd""#), one(b"p", br#""abcd""#), "without its brace");
        assert_eq!(of(br#"{"p":{}"#), one(b"p", b"{}"));
        assert_eq!(of(br#"{"a":x","k":{\""}"#).len(), 2, "whose quotes are read in another phase than they were balanced in");
        assert!(of(b"").is_empty() && of(b"{").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn a_string_ends_at_its_first_quote_that_nothing_escapes_wherever_it_is_cut(
            pieces in proptest::collection::vec("[\"\\\\a]{0,5}", 0..8),
        ) {
            let mut after_backslash = false;
            let expected = pieces.concat().bytes().position(|byte| {
                let ends = byte == b'"' && !after_backslash;
                after_backslash = byte == b'\\' && !after_backslash;
                ends
            });
            let (mut escaped, mut before) = (false, 0);
            let found = pieces.iter().find_map(|piece| {
                let end = string_end(piece.as_bytes(), 0, &mut escaped).map(|end| before + end - 1);
                before += piece.len();
                end
            });
            proptest::prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_the_bytes_are_members_lie_within_them(words in proptest::collection::vec(
            proptest::sample::select(vec!["{", "}", "[", "]", "\"", ":", ",", "\\", " ", "a", "1", "\u{e9}"]), 0..40,
        )) {
            let text = words.concat();
            let taken: usize = members(text.as_bytes()).map(|(name, value)| name.len() + value.len()).sum();
            proptest::prop_assert!(taken <= text.len());
        }
    }
}
