//! What a configuration may ask of the world around it: variables and files, both handed in.
//!
//! `${NAME}` and `${NAME:-default}` stand only inside values, and are filled in after the YAML was taken apart. So a variable cannot
//! add keys, whatever it holds, and every position in a message is the one in the file.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::decode::Problems;
use super::node::{Node, Value};

/// The most text that variables may bring into one file, in bytes: a small file could otherwise repeat a large variable endlessly.
const MAX_EXPANDED: usize = 4 << 20;

/// The environment, as a map: the process's own, or a test's.
#[derive(Clone, Default)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// The value of a variable. Empty is not unset, except to `:-`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Env {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// Reads the files that a configuration names. Loading stays pure: the shell reads the disk, a test has none.
pub trait Files {
    /// The whole file. Implementations bound its size.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// There is no file: for a configuration that is made and not written by anybody, and names none.
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Fills the variables into every value below `node`.
pub(super) fn expand(node: &mut Node, env: &Env, problems: &mut Problems) {
    let mut left = MAX_EXPANDED;
    expand_below(node, env, &mut left, problems);
}

fn expand_below(node: &mut Node, env: &Env, left: &mut usize, problems: &mut Problems) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| expand_below(item, env, left, problems)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| expand_below(&mut entry.node, env, left, problems)),
        Value::Text(text) => match expanded(text, env, left) {
            Ok(None) => {}
            Ok(Some(text)) => node.value = Value::Expanded(text),
            Err(fault) => {
                problems.add(node.mark, fault.message).mend = Some(fault.mend);
                // So that what reads it is silent about a value that was never there.
                node.value = Value::Broken;
            }
        },
        _ => {}
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    message: String,
    mend: String,
}

impl Fault {
    fn new(message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { message: message.into(), mend: mend.into() }
    }
}

/// `text` with its variables filled in; `None` when it has none. `$${` stands for a plain `${`.
fn expanded(text: &str, env: &Env, left: &mut usize) -> Result<Option<String>, Fault> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.extend([before, "${"]);
            rest = &reference[2..];
            continue;
        }
        out.push_str(before);
        let Some((inside, behind)) = reference[2..].split_once('}') else {
            return Err(Fault::new("a `${` without its `}`", "write `${NAME}`, or `$${` for a plain `${`"));
        };
        let value = value(inside, env)?;
        *left = left.checked_sub(value.len()).ok_or_else(|| {
            Fault::new("the variables bring more than 4 MiB into this file", "read long values with `{ file: PATH }`")
        })?;
        out.push_str(value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn value<'a>(inside: &'a str, env: &'a Env) -> Result<&'a str, Fault> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Err(Fault::new(
            "a variable's name is made of letters, digits and `_`",
            "write `${NAME}` or `${NAME:-default}`, or `$${` for a plain `${`",
        ));
    }
    match (env.get(name), default) {
        (Some("") | None, Some(default)) => Ok(default),
        (Some(value), _) => Ok(value),
        (None, None) => Err(Fault::new(
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give it a default: `${{{name}:-default}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env() -> Env {
        [("HOST", "example.com"), ("EMPTY", ""), ("ODD", "${HOST}: [x]")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn filled(text: &str) -> Result<Option<String>, String> {
        expanded(text, &env(), &mut 100).map_err(|fault| fault.message)
    }

    #[test]
    fn fills_in_variables_and_defaults() {
        for (text, expected) in [
            ("plain", None),
            ("$HOST", None),
            ("https://${HOST}/v1", Some("https://example.com/v1")),
            ("${NOPE:-x}${EMPTY:-y}${HOST:-z}", Some("xyexample.com")),
            ("${EMPTY}", Some("")),
            ("${NOPE:-}", Some("")),
            ("$${HOST}", Some("${HOST}")),
            ("${ODD}", Some("${HOST}: [x]")),
        ] {
            assert_eq!(filled(text), Ok(expected.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("${NOPE}", "the environment variable `NOPE` is not set"),
            ("${HOST", "a `${` without its `}`"),
            ("${}", "a variable's name is made of letters, digits and `_`"),
            ("${1X}", "a variable's name is made of letters, digits and `_`"),
        ] {
            assert_eq!(filled(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_variables_bring_is_bounded() {
        assert!(filled(&"${HOST}".repeat(9)).is_ok());
        assert!(filled(&"${HOST}".repeat(10)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[$\\{\\}:a-zA-Z_é-]{0,40}") {
            let _ = filled(&text);
        }
    }
}
