//! JSON read member by member, so that what nobody asked for is found, and is named by where it stands.
//!
//! serde's `deny_unknown_fields` finds it too, but says neither the path nor that a name is there twice; and a tree would lose what has to
//! stay as it was written: the order in a schema, the digits of a number. Here a value is a piece of the client's text until somebody
//! asks what it is, and most go out again as that piece.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// What a request says that cannot be said in the other dialect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {why}")]
pub struct Refusal {
    /// Where it stands: `messages[2].content[0].image_url`.
    pub field: String,
    /// What is wrong with it, as the end of a sentence that begins with the field.
    pub why: String,
}

/// The longest name of a member that is repeated to a client, in characters. Those that mean something have fewer than thirty.
pub const LONGEST_NAME: usize = 64;

/// The most members of an object that is looked at. Those with many (a schema, a tool's input) are not, but go on as they are.
const MOST_MEMBERS: usize = 256;
/// The most elements of an array that is looked at. Anthropic takes one hundred thousand messages in a request, and others say nothing.
const MOST_ELEMENTS: usize = 100_000;

/// Where something stands.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Member(&'p Path<'p>, &'p str),
    Element(&'p Path<'p>, usize),
}

impl<'p> Path<'p> {
    pub(super) const fn member(&'p self, name: &'p str) -> Self {
        Self::Member(self, name)
    }

    pub(super) const fn element(&'p self, place: usize) -> Self {
        Self::Element(self, place)
    }

    pub(super) fn refuse(&self, why: impl Into<String>) -> Refusal {
        Refusal { field: self.to_string(), why: why.into() }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Self::Root, name) => write!(f, "{}", Shown(name)),
            Self::Member(parent, name) => write!(f, "{parent}.{}", Shown(name)),
            Self::Element(parent, place) => write!(f, "{parent}[{place}]"),
        }
    }
}

struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(LONGEST_NAME).map_or(self.0.len(), |(end, _)| end);
        f.write_str(self.0.get(..end).unwrap_or_default())?;
        f.write_str(if end < self.0.len() { ".." } else { "" })
    }
}

/// A piece of JSON as it was written.
pub(super) type Raw<'a> = &'a RawValue;

/// The members of an object that nobody has taken yet.
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, str>, Option<Raw<'a>>)>,
}

impl<'a> Object<'a> {
    /// A whole body.
    pub(super) fn of_body(body: &'a [u8]) -> Result<Self, Refusal> {
        let object: Self = serde_json::from_slice(body)
            .map_err(|error| Refusal { field: "body".into(), why: format!("is not valid JSON: {error}") })?;
        object.without_twins(&Path::Root)
    }

    pub(super) fn read(value: Raw<'a>, at: &Path<'_>) -> Result<Self, Refusal> {
        let why = if value.get().starts_with('{') {
            "has too many members, or one without a readable name"
        } else {
            "must be an object"
        };
        let object: Self = serde_json::from_str(value.get()).map_err(|_| at.refuse(why))?;
        object.without_twins(at)
    }

    /// No name is there twice: of two members one reader looks at the first, and another at the last.
    fn without_twins(self, at: &Path<'_>) -> Result<Self, Refusal> {
        let mut names: SmallVec<[&str; 16]> = self.members.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.array_windows().find(|[one, other]| one == other) {
            return Err(at.member(name).refuse("is given twice"));
        }
        drop(names);
        Ok(self)
    }

    /// The value of that name; `null` is as good as none.
    pub(super) fn take(&mut self, name: &str) -> Option<Raw<'a>> {
        let found = self.members.iter_mut().find(|(key, value)| value.is_some() && key == name)?;
        found.1.take().filter(|value| value.get() != "null")
    }

    /// What nobody has taken.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, Raw<'a>)> {
        self.members.iter().filter_map(|(name, value)| Some((&**name, (*value)?)))
    }

    /// The text of that name.
    pub(super) fn text(&mut self, name: &str, at: &Path<'_>) -> Result<Option<Cow<'a, str>>, Refusal> {
        self.take(name).map(|value| text(value, &at.member(name))).transpose()
    }

    /// The text of that name, which has to be there, as it was written.
    pub(super) fn required(&mut self, name: &str, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
        let value = self.take(name).ok_or_else(|| at.member(name).refuse("is missing"))?;
        is_text(value, &at.member(name))
    }

    /// All has been taken that there is.
    pub(super) fn done(self, at: &Path<'_>) -> Result<(), Refusal> {
        let Some((name, _)) = self.members.iter().find(|(_, value)| value.is_some()) else { return Ok(()) };
        Err(at.member(name).refuse("has no counterpart in the API of the backend that would serve it"))
    }

    /// Refuses what is there under one of these names, unless it is no more than the value that stands for its absence.
    pub(super) fn refuse_unless(&mut self, name: &str, idle: &[&str], why: &str, at: &Path<'_>) -> Result<(), Refusal> {
        match self.take(name) {
            Some(value) if !idle.iter().any(|idle| is_same(value.get(), idle)) => Err(at.member(name).refuse(why)),
            _ => Ok(()),
        }
    }
}

/// Whether both are one value, however it is written.
fn is_same(value: &str, idle: &str) -> bool {
    // Of something long it is known without reading it.
    const LONGEST: usize = 256;
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let same = |a: &serde_json::Value, b: &serde_json::Value| a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a));
    value == idle || value.len() <= LONGEST && read(value).zip(read(idle)).is_some_and(|(a, b)| same(&a, &b))
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((Key(name), value)) = map.next_entry::<Key<'de>, Raw<'de>>()? {
            if members.len() == MOST_MEMBERS {
                return Err(serde::de::Error::custom("there are too many members"));
            }
            members.push((name, Some(value)));
        }
        Ok(Object { members })
    }
}

/// The elements of an array.
pub(super) fn list<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Vec<Raw<'a>>, Refusal> {
    let why = if value.get().starts_with('[') { "has too many elements" } else { "must be an array" };
    let elements: Result<Elements<'_>, _> = serde_json::from_str(value.get());
    elements.map(|Elements(elements)| elements).map_err(|_| at.refuse(why))
}

struct Elements<'a>(Vec<Raw<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Listed)
    }
}

struct Listed;

impl<'de> Visitor<'de> for Listed {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements<'de>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            if elements.len() == MOST_ELEMENTS {
                return Err(serde::de::Error::custom("there are too many elements"));
            }
            elements.push(element);
        }
        Ok(Elements(elements))
    }
}

/// A string without its escapes. One that is well made and stands for no text has an escape for one half of a surrogate pair; as long as
/// nobody has to read it, it passes as it was written.
pub(super) fn text<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Cow<'a, str>, Refusal> {
    let text: Result<Key<'a>, _> = serde_json::from_str(value.get());
    let why = if is_string(value) { "has half of a surrogate pair, which is no text" } else { "must be a string" };
    text.map(|Key(text)| text).map_err(|_| at.refuse(why))
}

/// A string as it was written, to be written so again.
pub(super) fn is_text<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
    if is_string(value) { Ok(value) } else { Err(at.refuse("must be a string")) }
}

pub(super) fn is_string(value: Raw<'_>) -> bool {
    value.get().starts_with('"')
}

/// Whether a string has nothing but white space. Most are known by their first letter.
pub(super) fn is_blank(value: Raw<'_>) -> bool {
    match value.get().trim_start_matches('"').trim_start().chars().next() {
        // What stands for no text is not blank.
        None | Some('"' | '\\') => text(value, &Path::Root).is_ok_and(|text| text.trim().is_empty()),
        Some(_) => false,
    }
}

/// A number from 0 to 1, as it was written.
pub(super) fn share<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
    let share: f64 = serde_json::from_str(value.get()).map_err(|_| at.refuse("must be a number"))?;
    if (0.0..=1.0).contains(&share) { Ok(value) } else { Err(at.refuse("must be from 0 to 1 there")) }
}

/// A whole number from 1, as it was written.
pub(super) fn count<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
    let counts = value.get().parse::<u32>().is_ok_and(|count| count > 0);
    if counts { Ok(value) } else { Err(at.refuse("must be a whole number above 0")) }
}

/// What is an object, as it was written.
pub(super) fn is_object<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
    if value.get().starts_with('{') { Ok(value) } else { Err(at.refuse("must be an object")) }
}

pub(super) fn flag(value: Raw<'_>, at: &Path<'_>) -> Result<bool, Refusal> {
    serde_json::from_str(value.get()).map_err(|_| at.refuse("must be true or false"))
}

/// Values as JSON; none of ours can fail.
pub(super) fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_is_named_by_its_path() {
        let mut object = Object::of_body(br#"{"a":1,"b":null,"c":{"d":2},"f":3}"#).ok().unwrap();
        assert_eq!(object.take("a").unwrap().get(), "1");
        assert!(object.take("b").is_none());
        let mut inner = Object::read(object.take("c").unwrap(), &Path::Root).ok().unwrap();
        assert!(inner.take("e").is_none());
        let (root, place) = (Path::Root, 3);
        let (list, c) = (root.member("list"), "c");
        let (element, why) = (list.element(place), "has no counterpart in the API of the backend that would serve it");
        let refusal = inner.done(&element.member(c)).unwrap_err();
        assert_eq!(refusal.to_string(), format!("`list[3].c.d` {why}"));
        assert_eq!(object.done(&root).unwrap_err().to_string(), format!("`f` {why}"));
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused_however_it_is_written() {
        for body in [r#"{"a":1,"b":2,"a":1}"#, r#"{"\u0061":null,"a":{}}"#] {
            assert_eq!(Object::of_body(body.as_bytes()).err().unwrap().to_string(), "`a` is given twice");
        }
        let inner = RawValue::from_string(r#"{"a":1,"a":1}"#.to_owned()).unwrap();
        let root = Path::Root;
        assert_eq!(Object::read(&inner, &root.member("b")).err().unwrap().to_string(), "`b.a` is given twice");
    }

    #[test]
    fn a_name_without_end_is_not_repeated_without_end() {
        let body = format!("{{\"{}\":1}}", "\u{e9}".repeat(1000));
        let refusal = Object::of_body(body.as_bytes()).ok().unwrap().done(&Path::Root).unwrap_err();
        assert_eq!(refusal.field, format!("{}..", "\u{e9}".repeat(LONGEST_NAME)));
    }

    #[test]
    fn half_of_a_surrogate_pair_passes_as_it_was_written_and_is_no_text_where_one_is_read() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let half = raw(r#""\ud83d""#);
        assert_eq!(text(&half, &Path::Root).unwrap_err().why, "has half of a surrogate pair, which is no text");
        assert!(!is_blank(&half) && is_text(&half, &Path::Root).is_ok());
        assert_eq!(text(&raw("1"), &Path::Root).unwrap_err().why, "must be a string");
        assert!(is_blank(&raw(r#""\n\u0020""#)) && !is_blank(&raw(r#""\n.""#)));
    }

    #[test]
    fn what_is_no_json_is_refused_as_that() {
        for body in [&b""[..], b"[]", b"{", b"{\"a\":}", b"{\"a\":\"\xff\"}", b"{} {}"] {
            assert_eq!(Object::of_body(body).err().map(|refusal| refusal.field).as_deref(), Some("body"));
        }
    }
}
