//! The file as a tree in which every value knows its place.
//!
//! Serde's derived readers stop at the first fault, and an operator with three slips would meet them one by one. So the YAML is only
//! taken apart here, and [`super::decode`] reads the tree and goes on after a fault. This is the one module that knows the parser;
//! it lowers the parser's budgets to what a configuration needs, because the budgets meant for all the world's YAML would let a
//! small file ask for gigabytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Spanned};

/// The deepest nesting, in collections. The file's own shape needs eight.
const MAX_DEPTH: usize = 24;
/// The most values in a file: a thousand backends with fifty keys each.
const MAX_NODES: usize = 100_000;
/// The most anchors, aliases and merges of each kind: one for every backend that a file has room for.
const MAX_ALIASES: usize = 1000;
/// The most values that aliases may add, so that ten lines cannot stand for a billion.
const MAX_REPLAYED: usize = 20_000;
/// The most text, what aliases repeat counted again: four times the longest file.
const MAX_TEXT: usize = 4 << 20;

/// Where a value stands, and which one it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// From 1; 0 for the file as a whole.
    pub(super) line: u32,
    /// In characters, from 1.
    pub(super) column: u32,
    /// Which value of the [`Tree`].
    pub(super) id: u32,
}

/// One value with its place.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

/// One key of a mapping with its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) node: Node,
}

/// What YAML says a value is.
#[derive(Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    /// Text into which variables were filled: it may also be read as a number, and is never repeated in a message.
    Expanded(String),
    /// Text whose variables could not be filled in, which was reported.
    Broken,
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A whole file.
pub(super) struct Tree {
    pub(super) root: Node,
    steps: Vec<(u32, Step)>,
}

/// How to get to a value from the one around it.
enum Step {
    Root,
    Key(String),
    Index(usize),
}

/// A path is cut here, in bytes, since a key may be as long as the file.
const MAX_PATH: usize = 200;

impl Tree {
    /// The way to a value, as in `backends[2].url`; empty for the file as a whole.
    pub(super) fn path(&self, mark: Mark) -> String {
        let mut steps = Vec::new();
        let mut id = mark.id;
        while let Some((parent, step)) = self.steps.get(id as usize)
            && !matches!(step, Step::Root)
        {
            steps.push(step);
            id = *parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.extend([".", key]),
                Step::Index(index) => path.extend(["[", &index.to_string(), "]"]),
            }
            if path.len() > MAX_PATH {
                path.truncate(path.floor_char_boundary(MAX_PATH));
                break;
            }
        }
        path
    }
}

/// Why a text is no YAML that we take.
pub(super) struct Unreadable {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) message: String,
    pub(super) mend: Option<String>,
}

/// Takes a text apart. An empty file is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Tree, Unreadable> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_merge_keys: MAX_ALIASES,
            // One anchor for two hundred backends is good style here; what may not grow is the sum, and that is bounded below.
            enforce_alias_anchor_ratio: false,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: MAX_TEXT,
            max_total_scalar_bytes: MAX_TEXT,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: 8,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // `no` is Norway, not a boolean.
        strict_booleans: true,
        with_snippet: false,
    };
    let mut root = match serde_saphyr::from_str_with_options::<Option<Spanned<Value>>>(text, options) {
        Ok(Some(spanned)) => placed(spanned),
        Ok(None) => Node { mark: Mark::default(), value: Value::Map(Vec::new()) },
        Err(error) => return Err(unreadable(&error)),
    };
    if matches!(root.value, Value::Null) {
        root.value = Value::Map(Vec::new());
    }
    let mut steps = Vec::new();
    number(&mut root, 0, Step::Root, &mut steps);
    Ok(Tree { root, steps })
}

fn unreadable(error: &Error) -> Unreadable {
    let error = error.without_snippet();
    let (line, column) = error.location().map_or((0, 0), |at| (at.line() as u32, at.column() as u32));
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The place is shown by the caret; the parser's own words for it would only say it twice.
    let text = text.lines().next().unwrap_or_default();
    let message = text.split_once(" at line ").map_or(text, |(message, _)| message).trim_end_matches([',', ' ', '.']);
    let message = match message {
        tabs if tabs.starts_with("tabs disallowed") => "YAML is indented with spaces, and this is a tab".to_owned(),
        documents if documents.contains("Documents {") => {
            "a configuration is one document, and here a second one begins".to_owned()
        }
        large if large.contains("too large or too complex") || large.starts_with("recursion limit") => {
            return Unreadable { line, column, message: TOO_MUCH.to_owned(), mend: Some(less(error)) };
        }
        other => other.to_owned(),
    };
    Unreadable { line, column, message, mend: None }
}

/// What is said of every file that is more than the budgets allow.
const TOO_MUCH: &str = "this is larger or deeper than a configuration may be";

/// What to do about a file that is too much. The parser tells the budget by name, but within an alias only in its text.
fn less(error: &Error) -> String {
    let said = error.to_string();
    let is_about = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if is_about(&["ScalarBytes"]) {
        format!("shorten it: a file has at most {} MiB of text, what aliases repeat counted again", MAX_TEXT >> 20)
    } else if is_about(&["lias", "Anchor", "MergeKeys"]) {
        format!(
            "write out what aliases (`*name`) repeat: of anchors, aliases and merges there may be {MAX_ALIASES} each, and aliases stand for {MAX_REPLAYED} values in all"
        )
    } else if is_about(&["Nodes", "Events"]) {
        format!("leave out what is not needed: a file has at most {MAX_NODES} values")
    } else {
        // The depth, of which the parser has a limit of its own besides.
        format!("take out some of the nesting: nothing stands deeper than {MAX_DEPTH} lists and mappings")
    }
}

fn placed(spanned: Spanned<Value>) -> Node {
    Node { mark: mark(&spanned.referenced), value: spanned.value }
}

fn mark(at: &serde_saphyr::Location) -> Mark {
    Mark { line: at.line() as u32, column: at.column() as u32, id: 0 }
}

/// Gives every value its number and remembers the way to it. The depth is bounded by [`MAX_DEPTH`].
fn number(node: &mut Node, parent: u32, step: Step, steps: &mut Vec<(u32, Step)>) {
    let id = steps.len() as u32;
    node.mark.id = id;
    steps.push((parent, step));
    match &mut node.value {
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                number(item, id, Step::Index(index), steps);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                number(&mut entry.node, id, Step::Key(entry.key.clone()), steps);
                entry.mark.id = entry.node.mark.id;
            }
        }
        _ => {}
    }
}

impl Value {
    /// What it is, in words, for a message: never the value itself, which may be a secret.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) | Self::Expanded(_) | Self::Broken => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// The entry of that key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Expanded(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(placed(item));
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<Value>>()? {
            let at = mark(&key.referenced);
            let key = match key.value {
                Value::Text(text) => text,
                Value::Int(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                _ => return Err(A::Error::custom("a key has to be text")),
            };
            let node = placed(map.next_value::<Spanned<Value>>()?);
            entries.push(Entry { key, mark: at, node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(node: &Node, tree: &Tree, out: &mut Vec<String>) {
        let at = |mark: Mark| format!("{}:{} {}", mark.line, mark.column, tree.path(mark));
        out.push(format!("{} {}", at(node.mark), node.value.kind()));
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| shown(item, tree, out)),
            Value::Map(entries) => {
                for entry in entries {
                    out.push(format!("key {}", at(entry.mark)));
                    shown(&entry.node, tree, out);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_value_knows_its_place() {
        let Ok(tree) = parse("a: 1\nb:\n  - x: é\n    y: [no, 2.5]\n  - ~\na: two\n") else { panic!("no YAML") };
        let mut out = Vec::new();
        shown(&tree.root, &tree, &mut out);
        assert_eq!(
            out,
            [
                "1:1  a mapping",
                "key 1:1 a",
                "1:4 a a number",
                "key 2:1 b",
                "3:3 b a list",
                "3:5 b[0] a mapping",
                "key 3:5 b[0].x",
                "3:8 b[0].x text",
                "key 4:5 b[0].y",
                "4:8 b[0].y a list",
                "4:9 b[0].y[0] text",
                "4:13 b[0].y[1] a number",
                "5:5 b[1] nothing",
                "key 6:1 a",
                "6:4 a text",
            ]
        );
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        for text in ["", "# only a comment\n", "~", "---\n"] {
            assert!(
                parse(text).is_ok_and(|tree| matches!(tree.root.value, Value::Map(entries) if entries.is_empty())),
                "{text:?}"
            );
        }
    }

    #[test]
    fn bombs_go_off_harmlessly() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 9].join(", ");
            laughs.extend(["a", &i.to_string(), ": &a", &i.to_string(), " [", &list, "]\n"]);
        }
        for bomb in [laughs, "[".repeat(100_000), "- ".repeat(100_000), "a: ".repeat(50_000), "- x\n".repeat(200_000)] {
            assert!(parse(&bomb).is_err(), "{}", &bomb[..40]);
        }
    }

    #[test]
    fn aliases_cannot_multiply_text() {
        let bomb = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(900_000), vec!["*a"; 900].join(", "));
        assert!(parse(&bomb).is_err());
    }

    #[test]
    fn says_where_it_is_no_yaml() {
        for text in ["a: [1, 2", "a:\n\tb: 1\n", "a: 'x", "a: 1\n b: 2\n", "a: *nowhere\n", "a: 1\n---\nb: 2\n", "? [x]\n: 1\n"] {
            let error = parse(text).err().unwrap();
            println!("{text:?} {}:{} {}", error.line, error.column, error.message);
        }
    }
}
