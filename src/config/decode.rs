//! From the tree to the shapes of [`super::file`], going on after every fault.
//!
//! A reader returns `None` when it has reported why, and whoever called it reports nothing more. [`section!`] makes a mapping's
//! structure, its reader and its JSON schema out of one list of keys, so that the three cannot part.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::node::{Entry, Mark, Node, Value};
use crate::tables::nearest;

/// Something found wrong while reading.
pub(super) struct Fault {
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) mend: Option<String>,
}

/// Everything found wrong so far.
#[derive(Default)]
pub(super) struct Problems {
    pub(super) faults: Vec<Fault>,
}

impl Problems {
    /// Adds a fault and gives it back, for a mend to be set.
    pub(super) fn add(&mut self, mark: Mark, message: impl Into<String>) -> &mut Fault {
        // Past some thousands nobody reads on, and memory is not for them.
        if self.faults.len() > 5000 {
            self.faults.truncate(5000);
        }
        self.faults.push(Fault { mark, message: message.into(), mend: None });
        let last = self.faults.len() - 1;
        &mut self.faults[last]
    }

    /// Adds that a value is not what was expected there. Always `None`, to be returned.
    pub(super) fn expected<T>(&mut self, node: &Node, what: &str) -> Option<T> {
        let found = match node.value {
            // It was reported when its variables were filled in.
            Value::Broken => return None,
            Value::Null => "and nothing stands here".to_owned(),
            _ => format!("found {}", node.value.kind()),
        };
        self.add(node.mark, format!("expected {what}, {found}"));
        None
    }

    /// Adds that a word is none of those known, with the nearest one. `shown` is the word as it may be repeated.
    pub(super) fn unknown(&mut self, mark: Mark, what: &str, word: &str, shown: &str, known: &[&str]) {
        let nearest = if self.enough() { None } else { similar(word, known.iter().copied()) };
        self.add(mark, format!("unknown {what} {shown}")).mend = match nearest {
            Some(nearest) => Some(format!("did you mean `{nearest}`?")),
            None if known.is_empty() => None,
            None => Some(format!("there is {}", listed(known))),
        };
    }

    /// Adds that a mapping has no such key. A key that resembles none is not repeated, nor named in the path: where a colon was
    /// forgotten it is the secret itself. The line of the file shows it, if it may be shown.
    fn unknown_key(&mut self, mapping: Mark, entry: &Entry, known: &[&str]) {
        let nearest = if self.enough() { None } else { similar(&entry.key, known.iter().copied()) };
        let (mark, message, mend) = match nearest {
            Some(near) => (entry.mark, format!("unknown key {}", quoted(&entry.key)), format!("did you mean `{near}`?")),
            None => (Mark { id: mapping.id, ..entry.mark }, "unknown key".to_owned(), format!("there is {}", listed(known))),
        };
        self.add(mark, message).mend = Some(mend);
    }

    /// Whether more was found than will be shown, so that looking for a mend is work for nobody.
    pub(super) fn enough(&self) -> bool {
        self.faults.len() >= super::error::MAX_PROBLEMS
    }
}

/// `a, b and c`, each between backticks; no more than twenty.
fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().take(20).map(|word| quoted(word)).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Text between backticks, cut short and without anything that a terminal would obey.
pub(super) fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    let dots = if text.chars().nth(80).is_some() { "…" } else { "" };
    format!("`{short}{dots}`")
}

/// The known word nearest to `text`.
pub(super) fn similar<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest(text, known.into_iter().map(|word| (word, word)))
}

/// What can be read from a value.
pub(super) trait Decode: Sized {
    /// Reads it, or reports why not.
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self>;

    /// What stands for a key that is not there; `None` for one that has to be.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if matches!(node.value, Value::Null) { Some(None) } else { Some(T::decode(node, problems)) }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// A value that may be left out, but not left empty: `keys:` whose entries are commented out would open the gateway to everybody.
pub(super) struct Stated<T>(pub(super) Option<T>);

impl<T: Decode> Decode for Stated<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        T::decode(node, problems).map(|value| Self(Some(value)))
    }

    fn absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// For the schema, to which a field with a default may be left out.
impl<T> Default for Stated<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: JsonSchema> JsonSchema for Stated<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: Decode> Decode for Vec<T> {
    /// Of the items those that could be read; the others were reported.
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::List(items) => Some(items.iter().filter_map(|item| T::decode(item, problems)).collect()),
            _ => problems.expected(node, "a list"),
        }
    }
}

/// A list with something in it.
pub(super) struct Filled<T>(pub(super) Vec<T>);

impl<T: Decode> Decode for Filled<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            problems.add(node.mark, "this list is empty").mend = Some("give it an entry, or leave the key out".to_owned());
            return None;
        }
        Vec::decode(node, problems).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Filled<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("SomeOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        schemars::json_schema!({ "type": "array", "items": item, "minItems": 1 })
    }
}

impl Decode for String {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) | Value::Expanded(text) => Some(text.clone()),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                let found = node.value.kind();
                problems.add(node.mark, format!("expected text, found {found}")).mend = Some("put it between quotes".to_owned());
                None
            }
            _ => problems.expected(node, "text"),
        }
    }
}

impl Decode for bool {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Expanded(text) if text == "true" => Some(true),
            Value::Expanded(text) if text == "false" => Some(false),
            _ => problems.expected(node, "`true` or `false`"),
        }
    }
}

impl Decode for f64 {
    /// Finite; whether it may be negative is its reader's business.
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let value = match &node.value {
            Value::Int(value) => *value as Self,
            Value::Float(value) => *value,
            Value::Expanded(text) => match text.trim().parse() {
                Ok(value) => value,
                Err(_) => return problems.expected(node, "a number"),
            },
            _ => return problems.expected(node, "a number"),
        };
        if value.is_finite() {
            return Some(value);
        }
        problems.add(node.mark, "expected a finite number");
        None
    }
}

impl Decode for u64 {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let value = match &node.value {
            Value::Int(value) => Self::try_from(*value).ok(),
            Value::Expanded(text) => text.trim().parse().ok(),
            _ => None,
        };
        value.or_else(|| problems.expected(node, "a whole number that is not negative"))
    }
}

/// A value with its place, for what can only be judged later.
#[derive(Clone, Copy)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) mark: Mark,
    expanded: bool,
}

impl<T: Decode> Decode for At<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let value = T::decode(node, problems)?;
        Some(Self { value, mark: node.mark, expanded: matches!(node.value, Value::Expanded(_)) })
    }
}

impl<T: AsRef<str>> At<T> {
    /// The text for a message; what came out of a variable is not repeated, since it may be a secret in the wrong place.
    pub(super) fn shown(&self) -> String {
        if self.expanded { "(the value of the variable)".to_owned() } else { quoted(self.value.as_ref()) }
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A mapping whose keys are the operator's names.
pub(super) struct Table<T>(pub(super) Vec<(At<String>, T)>);

impl<T: Decode> Decode for Table<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let entries = entries(node, problems)?;
        let read = |entry: &Entry| {
            let key = At { value: entry.key.clone(), mark: entry.mark, expanded: false };
            Some((key, T::decode(&entry.node, problems)?))
        };
        Some(Self(entries.iter().filter_map(read).collect()))
    }
}

impl<T: JsonSchema> JsonSchema for Table<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("TableOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        schemars::json_schema!({ "type": "object", "additionalProperties": value })
    }
}

/// The entries of a mapping, of which keys that are there twice are reported.
fn entries<'n>(node: &'n Node, problems: &mut Problems) -> Option<&'n [Entry]> {
    let Value::Map(entries) = &node.value else { return problems.expected(node, "a mapping") };
    let mut seen = std::collections::HashMap::with_capacity(entries.len());
    for entry in entries {
        if let Some(line) = seen.insert(&*entry.key, entry.mark.line) {
            problems.add(entry.mark, format!("the key {} is here twice", quoted(&entry.key))).mend =
                Some(format!("the first one is in line {line}"));
        }
    }
    Some(entries)
}

/// The value of the only key of a mapping, which has to be one of `known`.
pub(super) fn only_key<'n>(
    node: &'n Node,
    known: &'static [&'static str],
    problems: &mut Problems,
) -> Option<(&'n str, &'n Node)> {
    let section = Section::of(node, known, problems)?;
    match section.entries {
        [only] if known.contains(&&*only.key) => Some((&only.key, &only.node)),
        // An unknown key was reported by `Section::of`.
        [_] => None,
        _ => {
            problems.add(node.mark, format!("expected exactly one of {}", listed(known)));
            None
        }
    }
}

/// A mapping whose keys are the program's.
pub(super) struct Section<'n> {
    mark: Mark,
    entries: &'n [Entry],
}

impl<'n> Section<'n> {
    /// The mapping at `node`, with keys that are not `known` reported.
    pub(super) fn of(node: &'n Node, known: &[&str], problems: &mut Problems) -> Option<Self> {
        let entries = entries(node, problems)?;
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            problems.unknown_key(node.mark, entry, known);
        }
        Some(Self { mark: node.mark, entries })
    }

    /// The value of a key, or what stands for it when it is not there.
    pub(super) fn field<T: Decode>(&self, key: &str, problems: &mut Problems) -> Option<T> {
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => T::decode(&entry.node, problems),
            None => T::absent().or_else(|| {
                problems.add(self.mark, format!("the key `{key}` is missing here"));
                None
            }),
        }
    }
}

/// A mapping with the program's keys: its structure, its reader, its JSON schema. Fields that are no `Option` have to be there.
macro_rules! section {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$field_doc])* pub(super) $field: $ty,)*
        }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: &$crate::config::node::Node,
                problems: &mut $crate::config::decode::Problems,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$($crate::config::decode::bare(stringify!($field)),)*];
                let section = $crate::config::decode::Section::of(node, KEYS, problems)?;
                // All fields are read before one that failed ends it.
                $(let $field = section.field::<$ty>($crate::config::decode::bare(stringify!($field)), problems);)*
                Some(Self { $($field: $field?,)* })
            }
        }
    )*};
}
pub(super) use section;

/// The key of a field whose name is a word of Rust (`r#match`).
pub(super) const fn bare(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Words of a closed set, as serde spells them.
macro_rules! words {
    ($($ty:ty: $what:literal { $($word:literal => $value:expr,)* })*) => {$(
        impl $crate::config::decode::Decode for $ty {
            fn decode(
                node: &$crate::config::node::Node,
                problems: &mut $crate::config::decode::Problems,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word,)*];
                let text = $crate::config::decode::At::<String>::decode(node, problems)?;
                match &*text.value {
                    $($word => Some($value),)*
                    other => {
                        problems.unknown(text.mark, $what, other, &text.shown(), WORDS);
                        None
                    }
                }
            }
        }
    )*};
}
pub(super) use words;
