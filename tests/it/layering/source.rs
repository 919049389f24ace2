//! As much of Rust's grammar as it takes to see what a file imports: comments, text, tests, and words.
//!
//! A parser of the whole language was not taken: it is the heaviest dependency that a test could have, and knows nothing more that
//! would be asked of it here. What this one cannot see (an import made by a macro) the compiler's own privacy has to hold.

use std::ops::Range;

/// What is not shipped: written for tests only.
const TEST_MARK: &str = "#[cfg(test)]";

/// A file without its comments, the contents of its literals and its tests. Lines keep their numbers.
pub(super) struct Shipped {
    /// The code that is left.
    pub(super) code: String,
    /// Files of modules that are tests, as far as the declaration names them: a path, or a module's name.
    pub(super) test_modules: Vec<TestModule>,
}

/// How a module that is a test names its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TestModule {
    /// `mod name;`
    Named(String),
    /// With a `#[path = ".."]`.
    At(String),
}

impl Shipped {
    /// Takes a file apart.
    pub(super) fn new(source: &str) -> Self {
        let original: Vec<char> = source.chars().collect();
        let mut code = blank_literals(&original);
        let mut test_modules = Vec::new();
        while let Some(item) = first_test_item(&code) {
            let text: String = original[item.clone()].iter().collect();
            let words: String = code[item.clone()].iter().collect();
            test_modules.extend(test_module(&text, &words));
            blank(&mut code, item);
        }
        Self { code: code.into_iter().collect(), test_modules }
    }
}

/// A word or a mark of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// The word, `::`, or one character.
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
}

/// The words and marks of code without literals.
pub(super) fn tokens(code: &str) -> Vec<Token<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (text, after) = rest.split_at(length);
        if first == '\n' {
            line += 1;
        } else if !first.is_whitespace() {
            found.push(Token { text, line });
        }
        rest = after;
    }
    found
}

/// The modules of the first level that code names, with the lines: `crate::x`, `use crate::{x, y::z}`, and `super::x` where enough
/// of them climb out. `depth` is how deep the file's own module lies: 1 for `src/x.rs`.
pub(super) fn imports<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 0 && text(at - 1) == "::";
        let climbed = (0..depth).take_while(|nth| text(at + 2 * nth) == "super" && text(at + 2 * nth + 1) == "::").count();
        let steps = if !continues && text(at) == "crate" && text(at + 1) == "::" {
            2
        } else if !continues && climbed > 0 && climbed == depth {
            2 * climbed
        } else {
            0
        };
        if steps > 0 {
            named(&tokens[at + steps..], &mut found);
        }
        at += steps.max(1);
    }
    found
}

/// What a path goes on with: one name, or a group of paths of which each begins with one.
fn named<'a>(rest: &[Token<'a>], found: &mut Vec<Token<'a>>) {
    let Some(first) = rest.first() else { return };
    if first.text != "{" {
        return found.push(*first);
    }
    let mut depth = 0;
    let mut begins = false;
    for token in rest {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => {}
            _ if depth == 1 && begins => found.push(*token),
            _ => {}
        }
        if depth == 0 {
            return;
        }
        begins = matches!(token.text, "{" | ",");
    }
}

fn blank(code: &mut [char], range: Range<usize>) {
    for c in &mut code[range] {
        if *c != '\n' {
            *c = ' ';
        }
    }
}

/// The same text with spaces for comments and for what stands in quotes.
fn blank_literals(source: &[char]) -> Vec<char> {
    let mut code = source.to_vec();
    let mut at = 0;
    while at < source.len() {
        let end = literal_end(source, at);
        blank(&mut code, at..end.unwrap_or(at));
        at = end.unwrap_or(at + 1);
    }
    code
}

/// Where the comment or literal ends that begins here, if one does.
fn literal_end(source: &[char], at: usize) -> Option<usize> {
    let rest = &source[at..];
    let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
    let in_word = at.checked_sub(1).is_some_and(|before| is_word(&source[before]));
    match rest {
        ['/', '/', ..] => Some(at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => Some(at + block_comment(rest)),
        ['r', '"' | '#', ..] if !in_word => raw_text(&rest[1..]).map(|length| at + 1 + length),
        ['b' | 'c', 'r', '"' | '#', ..] if !in_word => raw_text(&rest[2..]).map(|length| at + 2 + length),
        ['"', ..] => Some(at + quoted(rest, '"')),
        ['\'', '\\', ..] => Some(at + quoted(rest, '\'')),
        // Anything else after a quote is a lifetime.
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// From the quote to the one that closes it, both included.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Hashes, text, as many hashes. None for a raw identifier.
fn raw_text(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['#'; hashes + 1];
    end[0] = '"';
    let length = rest[hashes + 1..].windows(end.len()).position(|window| window == end)?;
    Some(hashes + 1 + length + end.len())
}

/// The first item that is marked as a test, its attributes included.
fn first_test_item(code: &[char]) -> Option<Range<usize>> {
    let mark: Vec<char> = TEST_MARK.chars().collect();
    let begin = code.windows(mark.len()).position(|window| window == mark)?;
    let mut depth = 0_i32;
    let mut in_braces = false;
    for (at, c) in code.iter().enumerate().skip(begin + mark.len()) {
        match c {
            '(' | '[' => depth += 1,
            '{' => (depth, in_braces) = (depth + 1, in_braces || depth == 0),
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        // An item ends with its braces, or with a semicolon, or at the latest with what encloses it.
        match c {
            ';' | '}' if depth == 0 && (*c == ';' || in_braces) => return Some(begin..at + 1),
            '}' if depth < 0 => return Some(begin..at),
            _ => {}
        }
    }
    Some(begin..code.len())
}

fn test_module(original: &str, code: &str) -> Option<TestModule> {
    let words: Vec<Token<'_>> = tokens(code);
    let [.., Token { text: "mod", .. }, name, Token { text: ";", .. }] = words[..] else { return None };
    let path = original.split_once("#[path = \"").and_then(|(_, rest)| rest.split_once('"'));
    Some(path.map_or_else(|| TestModule::Named(name.text.to_owned()), |(path, _)| TestModule::At(path.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(source: &str, depth: usize) -> Vec<String> {
        let shipped = Shipped::new(source);
        imports(&tokens(&shipped.code), depth).iter().map(|token| format!("{}:{}", token.line, token.text)).collect()
    }

    #[test]
    fn every_form_of_an_import_is_seen() {
        assert_eq!(seen("use crate::a::B;\nfn f() { crate::b::g(); $crate::c!() }", 1), ["1:a", "2:b", "2:c"]);
        assert_eq!(seen("use crate::{a, b::{c, d::{e}},\n f::g as h};", 1), ["1:a", "1:b", "2:f"]);
        assert_eq!(seen("use super::a;\npub(crate) fn f(x: super::b::C) {}", 1), ["1:a", "2:b"]);
        assert_eq!(seen("use super::{a, b};", 1), ["1:a", "1:b"]);
        assert_eq!(seen("use super::sibling;\nuse super::super::a;", 2), ["2:a"]);
        assert_eq!(seen("use other::crate_like::x; pub(crate) struct S;", 1), [""; 0]);
    }

    #[test]
    fn what_is_no_code_is_not_seen() {
        let source = r##"
            //! crate::a
            /* crate::b /* crate::c */ crate::d */
            const T: &str = "crate::e \" crate::f";
            const R: &[u8] = br#"crate::g " crate::h"#;
            fn f<'a>(x: &'a str) -> char { '"' }
            fn g() -> char { '\'' }
            use crate::seen;
        "##;
        assert_eq!(seen(source, 1), ["8:seen"]);
        assert_eq!(seen("let r#type = 1; use crate::a;", 1), ["1:a"]);
    }

    #[test]
    fn tests_are_taken_out_and_nothing_else() {
        let source = "use crate::a;\n#[cfg(test)]\nuse crate::{b, c};\n#[cfg(test)]\n#[expect(dead_code, reason = \"x\")]\nfn f(x: [u8; 3]) { crate::d::g() }\n\
                      fn h() { crate::e::g(); }\n#[cfg(test)]\nmod tests {\n use crate::f;\n}\nuse crate::g;";
        assert_eq!(seen(source, 1), ["1:a", "7:e", "12:g"]);
        let named = Shipped::new("#[cfg(test)]\n#[path = \"log_tests.rs\"]\nmod tests;\n#[cfg(test)]\nmod other;\nmod shipped;");
        assert_eq!(named.test_modules, [TestModule::At("log_tests.rs".to_owned()), TestModule::Named("other".to_owned())]);
        assert!(named.code.contains("mod shipped;"));
    }
}
