//! Patterns of model ids: `*` for any run of characters, `?` for one, everything else for itself in either case.
//!
//! A regular expression would need its dots escaped in every id (`gpt-4.1`), and nobody does. The matcher remembers only the last
//! star, so its time is bounded by pattern times text and no pattern can make it explode.

use std::fmt;

/// The longest pattern, in bytes. Model ids are shorter than 100; a longer pattern is a slip.
const MAX_LEN: usize = 256;

/// A pattern of model ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

/// A pattern that is empty or longer than 256 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern needs between 1 and {MAX_LEN} bytes")]
pub struct GlobError;

impl Glob {
    /// The pattern `text`, at most 256 bytes.
    pub fn new(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() || text.len() > MAX_LEN { Err(GlobError) } else { Ok(Self(text.into())) }
    }

    /// Whether all of `text` fits. Case is ignored for ASCII letters only, as ids have no others.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Where to go on when what follows the last star did not fit: behind that star, one more byte given to it.
        let mut last_star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    last_star = Some((p + 1, t));
                    p += 1;
                }
                Some(b'?') => {
                    p += 1;
                    t = next_char(text, t);
                }
                Some(byte) if byte.eq_ignore_ascii_case(&text[t]) => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((behind, given)) = last_star else { return false };
                    last_star = Some((behind, given + 1));
                    (p, t) = (behind, given + 1);
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The start of the character behind the one that holds byte `at`.
fn next_char(text: &[u8], at: usize) -> usize {
    let rest = &text[at + 1..];
    at + 1 + rest.iter().take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).unwrap().matches(text)
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, expected) in [
            ("gpt-4", "gpt-4", true),
            ("gpt-4", "gpt-4o", false),
            ("gpt-4", "xgpt-4", false),
            ("gpt-4-*", "GPT-4-Turbo", true),
            ("*haiku*", "us.anthropic.claude-3-5-haiku-20241022-v1:0", true),
            ("gemini-*-pro*", "gemini-2.5-pro-preview", true),
            ("gemini-*-pro*", "gemini-pro", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "aéc", true),
            ("?", "é", true),
            ("??", "é", false),
            ("*", "", true),
            ("**", "anything", true),
            ("?", "", false),
            ("*ab", "aaab", true),
            ("*aab*b", "aaabb", true),
            ("*é?", "xéé!", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn refuses_empty_and_endless_patterns() {
        assert_eq!(Glob::new(""), Err(GlobError));
        assert_eq!(Glob::new(&"*".repeat(257)), Err(GlobError));
    }

    /// The textbook definition, whose time is exponential and whose truth is plain.
    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => by_definition(rest, text) || !text.is_empty() && by_definition(pattern, &text[1..]),
            (Some(('?', p)), Some((_, t))) => by_definition(p, t),
            (Some((a, p)), Some((b, t))) => a.eq_ignore_ascii_case(b) && by_definition(p, t),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[abAé*?]{1,8}", text in "[abAé]{0,10}") {
            let expected = by_definition(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches(&pattern, &text), expected);
        }

        #[test]
        fn never_panics(pattern in "\\PC{1,40}", text in "\\PC{0,80}") {
            if let Ok(glob) = Glob::new(&pattern) {
                glob.matches(&text);
            }
        }
    }
}
