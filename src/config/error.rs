//! What a person sees when a configuration is wrong: every problem, each with the line it is about, a caret under the place, and
//! how to mend it.
//!
//! Written here and not left to a crate of reports, because a line of a configuration may hold a secret, and none of those would
//! hide it. Nothing is ever coloured: the text also goes to a log and over HTTP.

use std::fmt;
use std::sync::Arc;

use super::decode::Fault;
use super::node::{Mark, Tree};

/// The most problems that are kept; whoever has a hundred has one cause.
pub(super) const MAX_PROBLEMS: usize = 100;
/// The longest stretch of a line that is shown, in characters.
const MAX_SHOWN: usize = 110;
/// Keys whose values are secrets.
const SECRET_KEYS: [&str; 7] = ["bearer", "token", "value", "secret", "sha256", "secret_access_key", "session_token"];
/// Keys below which everything is taken for a secret, since the key of the secret itself may be mistyped.
const AROUND_SECRETS: [&str; 4] = ["auth", "electricity_maps", "keys", "peers"];
/// Except what stands behind these.
const NO_SECRETS: [&str; 10] = ["file", "name", "base_url", "interval", "routes", "policy", "listen", "others", "fast", "slow"];

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but probably not as meant.
    Warning,
}

/// One thing that is wrong with a configuration, or probably is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file can be used nevertheless.
    pub severity: Severity,
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// From 1; 0 when it is about the file as a whole.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// The way to the value, as in `backends[2].url`; empty for the file as a whole.
    pub field: String,
    /// What is wrong. It never holds a secret.
    pub message: String,
    /// How to mend it.
    pub mend: Option<String>,
    /// As much of its line as is shown, and how many characters of it stand before the caret.
    source: Option<(String, usize)>,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// In the order of the file, at least one, at most a hundred.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 {
            writeln!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{word}: {}", self.message)?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if self.line == 0 {
            writeln!(f, "{margin}--> {}", self.file)?;
        } else {
            writeln!(f, "{margin}--> {}:{}:{}", self.file, self.line, self.column)?;
        }
        if let Some((shown, caret)) = &self.source {
            let pointer = format!("{}^ {}", " ".repeat(*caret), self.field);
            writeln!(f, "{margin} |\n{number} | {shown}\n{margin} | {}", pointer.trim_end())?;
        }
        if let Some(mend) = &self.mend {
            writeln!(f, "{margin} = help: {mend}")?;
        }
        Ok(())
    }
}

/// The part of a line that is shown, and how many characters stand before the caret.
fn window(line: &str, column: usize) -> (String, usize) {
    let caret = column.saturating_sub(1).min(line.chars().count());
    let start = if caret < MAX_SHOWN { 0 } else { caret - MAX_SHOWN / 2 };
    let shown: String = line.chars().skip(start).take(MAX_SHOWN).collect();
    (shown.trim_end().to_owned(), caret - start)
}

/// Makes problems of what was found, in the file's order, each with its line and path.
pub(super) fn report(file: &str, text: &str, tree: Option<&Tree>, mut faults: Vec<Fault>, severity: Severity) -> Vec<Problem> {
    let file: Arc<str> = Arc::from(file);
    let lines: Vec<&str> = text.lines().collect();
    faults.sort_by_key(|fault| (fault.mark.line, fault.mark.column));
    faults.truncate(MAX_PROBLEMS);
    // A line may be as long as the file, and have all the problems: it is looked at once, and kept only as far as it is shown.
    let mut looked_at: (u32, Option<String>) = (0, None);
    let problem = |fault: Fault| {
        let Mark { line, column, .. } = fault.mark;
        if looked_at.0 != line {
            let index = (line as usize).checked_sub(1);
            looked_at = (line, index.and_then(|index| hidden(&lines, index, tree.is_some())));
        }
        Problem {
            severity,
            file: Arc::clone(&file),
            line,
            column,
            field: tree.map(|tree| tree.path(fault.mark)).map_or_else(String::new, |path| plain(&path)),
            message: fault.message,
            mend: fault.mend,
            source: looked_at.1.as_ref().map(|line| window(line, column as usize)),
        }
    };
    faults.into_iter().map(problem).collect()
}

/// A problem of which nothing but the place is known yet, for what is found wrong when the text is not there any more.
pub(super) fn place(file: &str, text: &str, tree: &Tree, mark: Mark) -> Problem {
    let nothing = Fault { mark, message: String::new(), mend: None };
    let mut found = report(file, text, Some(tree), vec![nothing], Severity::Error);
    let nowhere = Problem {
        severity: Severity::Error,
        file: Arc::from(file),
        line: 0,
        column: 0,
        field: String::new(),
        message: String::new(),
        mend: None,
        source: None,
    };
    found.pop().unwrap_or(nowhere)
}

/// A line without what a terminal would obey; the columns stay.
fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Line `index` with its secrets starred out; the columns stay. It errs on the side of hiding, and
/// trusts no brace of a file that is not `well_formed`.
fn hidden(lines: &[&str], index: usize, well_formed: bool) -> Option<String> {
    let line = plain(lines.get(index)?);
    let nested = if below_secret(lines, index) { secret_in(&line, 0, line.len()) } else { None };
    let secret = [nested, secret_value(&line, well_formed)].into_iter().flatten().min();
    let line = secret.map_or(line.clone(), |start| starred(&line, start));
    Some(without_user_info(&line))
}

/// Whether one of the lines around this one, which are those before it with ever less indentation, is about a secret.
fn below_secret(lines: &[&str], index: usize) -> bool {
    let mut depth = lines.get(index).map_or(0, |line| depth(line));
    for line in lines.iter().take(index).rev().take(1000).filter(|line| !line.trim().is_empty()) {
        if depth == 0 {
            return false;
        }
        if self::depth(line) < depth {
            depth = self::depth(line);
            if keys(line).any(|(key, _)| AROUND_SECRETS.contains(&key) || SECRET_KEYS.contains(&key)) {
                return true;
            }
        }
    }
    false
}

/// How deep a line stands: an item of a list may be indented no more than the key whose list it is.
fn depth(line: &str) -> usize {
    let text = line.trim_start_matches(' ');
    2 * (line.len() - text.len()) + usize::from(text.starts_with("- "))
}

fn starred(line: &str, from: usize) -> String {
    let (before, secret) = line.split_at(from);
    let stars: String = secret.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect();
    format!("{before}{stars}")
}

/// The words before a colon, each with where its value begins.
fn keys(line: &str) -> impl Iterator<Item = (&str, usize)> {
    line.match_indices(':').map(|(colon, _)| {
        let before = line[..colon].trim_end().trim_end_matches(['"', '\'']);
        let key = before.rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).next().unwrap_or_default();
        (key, line.len() - line[colon + 1..].trim_start().len())
    })
}

/// Where the first written-out secret of a line begins: behind one of [`SECRET_KEYS`], or anywhere in the braces behind one of
/// [`AROUND_SECRETS`].
fn secret_value(line: &str, well_formed: bool) -> Option<usize> {
    keys(line).find_map(|(key, start)| {
        let value = &line[start..];
        if AROUND_SECRETS.contains(&key) {
            let end = if well_formed && value.starts_with('{') { closing_brace(line, start) } else { line.len() };
            return secret_in(line, start, end);
        }
        (SECRET_KEYS.contains(&key) && !value.is_empty() && !value.starts_with('{') && !is_variable(value)).then_some(start)
    })
}

/// Where the first secret begins in the stretch of a line that is about secrets: everything but keys, variables, and what stands
/// behind [`NO_SECRETS`], be it a list, without another key in it.
fn secret_in(line: &str, start: usize, end: usize) -> Option<usize> {
    let (mut at, mut in_list) = (start, false);
    while at < end {
        let rest = &line[at..end];
        let piece_end = piece_end(rest);
        let piece = rest[..piece_end].trim_end();
        let content = piece.trim_start_matches([' ', '-', '[', ']']);
        let first = at + piece.len() - content.len();
        let (key, value) = match content.split_once(':') {
            Some((key, value)) if value.is_empty() || value.starts_with(' ') => {
                (key.trim_matches(['"', '\'']), value.trim_start())
            }
            _ => ("", content),
        };
        let is_key = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if !is_key {
            return Some(first);
        }
        let goes_on = in_list && key.is_empty();
        let harmless = (goes_on || NO_SECRETS.contains(&key)) && !value.contains(": ");
        if !value.is_empty() && !harmless && !is_variable(value) && !is_word(value) {
            return Some(at + piece.len() - value.len());
        }
        in_list = harmless && (goes_on || value.starts_with('[')) && !piece.contains(']');
        at += piece_end + 1;
    }
    None
}

/// The length of a piece of a mapping in braces: to the next comma or brace that belongs to no variable.
fn piece_end(text: &str) -> usize {
    let mut variable = false;
    for (at, c) in text.char_indices() {
        match c {
            '{' if text[..at].ends_with('$') => variable = true,
            '}' if variable => variable = false,
            ',' | '{' | '}' => return at,
            _ => {}
        }
    }
    text.len()
}

/// Where the brace at `open` is closed, or the line's end.
fn closing_brace(line: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in line[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return open + at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    line.len()
}

/// Whether a value is nothing but `${NAME}`, as far as its end of line, mapping or comment.
fn is_variable(value: &str) -> bool {
    let value = value.trim_start_matches(['"', '\'']);
    value.strip_prefix("${").and_then(|rest| rest.split_once('}')).is_some_and(|(name, rest)| {
        let rest = rest.trim_start_matches(['"', '\'']).trim_start();
        !name.contains(":-") && (rest.is_empty() || rest.starts_with(['}', ',', '#']))
    })
}

/// Whether a value is the one word that may stand in the place of a credential without being one.
fn is_word(value: &str) -> bool {
    value.strip_prefix("pass_through").is_some_and(|rest| rest.is_empty() || rest.trim_start().starts_with('#'))
}

/// Stars out `user:password` in every URL of a line.
fn without_user_info(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + 3);
        out.push_str(before);
        let end = behind.find([' ', '"', '\'', ',', '}']).unwrap_or(behind.len());
        let user = behind[..end].rfind('@').unwrap_or(0);
        out.extend(behind[..user].chars().map(|_| '*'));
        rest = &behind[user..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_starred_out() {
        for (line, expected) in [
            ("    auth: sk-1", "    auth: ****"),
            ("    auth: pass_through # as it came", "    auth: pass_through # as it came"),
            ("  - { name: a, auth: pass_through, url: x }", "  - { name: a, auth: pass_through, url: * *"),
            ("    auth: pass_throughsk-1", "    auth: ****************"),
            ("    auth: pass_through sk-1", "    auth: ************ ****"),
            ("    auth: { bearer: sk-1, oops: 1 }", "    auth: { bearer: ***** ***** * *"),
            ("    auth: { bearer: ${KEY}, oops: 1 }", "    auth: { bearer: ${KEY}, oops: * *"),
            ("  - { auth: { beerer: sk-1 }, url: x }", "  - { auth: { beerer: **** ** **** * *"),
            (
                "  - { auth: { header: { name: x, valeu: ${A} } }, url: x }",
                "  - { auth: { header: { name: x, valeu: ${A} } }, url: x }",
            ),
            ("    bearer: ${KEY:-sk-1}", "    bearer: ************"),
            ("    bearer: { file: k }", "    bearer: { file: k }"),
            ("    \"token\" : 'abc'", "    \"token\" : *****"),
            ("  input_joules_per_token: 1, token: x", "  input_joules_per_token: 1, token: *"),
            ("peers: { listen: x, secert: sk-1, fast: 1s }", "peers: { listen: x, secert: ***** ***** ** *"),
            ("peers: { others: [a:1, b:2], secert: sk-1 }", "peers: { others: [a:1, b:2], secert: **** *"),
            ("keys: [{ routes: [a, b], sk-1 }]", "keys: [{ routes: [a, b], **** **"),
            ("- keys: { name: redsecret: sk-1 }", "- keys: { name: ********** **** *"),
            ("    url: https://me:pw@host/", "    url: https://*****@host/"),
            ("    url: https://host/@x", "    url: https://*****@x"),
        ] {
            assert_eq!(hidden(&[line], 0, true).unwrap(), expected);
        }
        let slip = "auth: {}earer: sk-1 } }";
        assert_eq!(hidden(&[slip], 0, false).unwrap(), "auth: {}earer: **** * *");
        let lines = ["auth:", "  beerer: sk-1", "  header:", "    name: x", "    value: ${KEY}"];
        let shown: Vec<String> = (0..5).map(|index| hidden(&lines, index, true).unwrap()).collect();
        assert_eq!(shown, ["auth:", "  beerer: ****", "  header:", "    name: x", "    value: ${KEY}"]);
        let lines = ["auth:", "  bearer: >-", "    sk-1", "", "    sk-2", "  header:", "    name: x"];
        assert_eq!(hidden(&lines, 2, true).unwrap(), "    ****");
        assert_eq!(hidden(&lines, 4, true).unwrap(), "    ****");
        assert_eq!(hidden(&lines, 6, true).unwrap(), "    name: x");
        let lines = ["keys:", "- name: blue", "  scret: sk-1", "- { name: red, sha: sk-2 }", "backends:", "- url: x"];
        let shown: Vec<String> = (0..6).map(|index| hidden(&lines, index, true).unwrap()).collect();
        let starred = ["keys:", "- name: blue", "  scret: ****", "- { name: red, sha: **** *", "backends:", "- url: x"];
        assert_eq!(shown, starred, "an item need not be indented more than the key of its list");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let (shown, caret) = window(&"é".repeat(5000), 3000);
        assert_eq!((shown.chars().count(), caret), (MAX_SHOWN, MAX_SHOWN / 2));
        assert_eq!(window("abc", 900), ("abc".to_owned(), 3));
    }
}
