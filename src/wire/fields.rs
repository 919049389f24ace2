//! The fields of a head as the proxy works with them: where they are in the bytes that were received, and a few of its own.
//!
//! A proxy asks for a handful of fields, takes some out, puts some in, and writes the rest as it came. `http::HeaderMap` is made for
//! asking: every name becomes an object and is hashed, every value shares its buffer by a count of its own, and writing takes it all
//! apart again. Here a field is six numbers, a name that is [known](Name) is one of them, and neighbours that pass are written in one
//! piece. That took 8,300 of 77,700 user instructions off a chat request (`benches/peers/instr.py`, each build in turn).
//!
//! It is the one form that the rules of the proxy are written for. What hyper reads or is to write is carried over at the edge.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

pub use super::names::{Name, Names};

/// Room for the fields that are added to a head, and for their text, without a second allocation.
const OWN_FIELDS: usize = 8;
const OWN_TEXT: usize = 384;

/// Fields in the order in which they came. A name may be there several times.
#[derive(Clone, Default)]
pub struct Fields {
    /// The head, as it was received.
    received: Bytes,
    /// The fields that were not, as lines.
    own: Vec<u8>,
    list: Vec<Field>,
    /// The known names that are among them.
    present: Names,
}

/// Whose text a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Received,
    Own,
}

/// Where a field is. A head is far shorter than 4 GiB.
#[derive(Clone, Copy, Debug)]
struct Field {
    known: Option<Name>,
    home: Home,
    /// Whether the value is a secret, and must not enter a table that others may probe (RFC 7541, 7.1.3).
    sensitive: bool,
    name: (u32, u32),
    value: (u32, u32),
}

/// A field as it is looked at.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The name, if it is known.
    pub known: Option<Name>,
    /// The name as it was sent.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// What a field is asked for by.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// A known name.
    Known(Name),
    /// Another one.
    Other(&'a HeaderName),
}

impl From<Name> for Key<'_> {
    fn from(name: Name) -> Self {
        Self::Known(name)
    }
}

impl<'a> From<&'a HeaderName> for Key<'a> {
    fn from(name: &'a HeaderName) -> Self {
        Name::of(name.as_str().as_bytes()).map_or(Self::Other(name), Self::Known)
    }
}

impl Fields {
    /// Those of a head that was received, none of which is noted yet.
    pub(super) fn of_received(received: Bytes, room: usize) -> Self {
        Self { received, own: Vec::new(), list: Vec::with_capacity(room + OWN_FIELDS), present: Names::default() }
    }

    /// Notes a field that was received: its name, which is a token, and its value, trimmed and without control characters.
    #[inline]
    pub(super) fn note(&mut self, known: Option<Name>, name: (usize, usize), value: (usize, usize)) {
        let span = |(from, to): (usize, usize)| (from as u32, to as u32);
        if let Some(known) = known {
            self.present.add(known);
        }
        self.list.push(Field { known, home: Home::Received, sensitive: false, name: span(name), value: span(value) });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn text(&self, home: Home, (from, to): (u32, u32)) -> &[u8] {
        let text: &[u8] = if home == Home::Received { &self.received } else { &self.own };
        text.get(from as usize..to as usize).unwrap_or_default()
    }

    fn seen(&self, field: &Field) -> Seen<'_> {
        let text = |span| self.text(field.home, span);
        Seen { known: field.known, name: text(field.name), value: text(field.value) }
    }

    #[inline]
    fn is(&self, field: &Field, key: Key<'_>) -> bool {
        match key {
            Key::Known(name) => field.known == Some(name),
            Key::Other(name) => {
                field.known.is_none() && self.text(field.home, field.name).eq_ignore_ascii_case(name.as_str().as_bytes())
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Seen<'_>> {
        self.list.iter().map(|field| self.seen(field))
    }

    /// Whether a field is there.
    #[inline]
    pub fn has<'k>(&self, key: impl Into<Key<'k>>) -> bool {
        match key.into() {
            Key::Known(name) => self.present.has(name),
            key @ Key::Other(_) => self.list.iter().any(|field| self.is(field, key)),
        }
    }

    /// The values of a field.
    pub fn all<'k>(&self, key: impl Into<Key<'k>>) -> impl Iterator<Item = &[u8]> {
        let key = key.into();
        let absent = matches!(key, Key::Known(name) if !self.present.has(name));
        let list = if absent { &[] } else { &*self.list };
        list.iter().filter(move |field| self.is(field, key)).map(|field| self.text(field.home, field.value))
    }

    /// The values that are text, as [`HeaderValue::to_str`] has it.
    pub fn texts<'k>(&self, key: impl Into<Key<'k>>) -> impl Iterator<Item = &str> {
        self.all(key).filter_map(text)
    }

    /// The first value of a field.
    pub fn get<'k>(&self, key: impl Into<Key<'k>>) -> Option<&[u8]> {
        self.all(key).next()
    }

    /// The same, if it is text.
    pub fn get_text<'k>(&self, key: impl Into<Key<'k>>) -> Option<&str> {
        self.get(key).and_then(text)
    }

    /// The first value of a field, to be kept. It shares the memory of the head.
    pub fn value<'k>(&self, key: impl Into<Key<'k>>) -> Option<HeaderValue> {
        let key = key.into();
        if !self.has(key) {
            return None;
        }
        self.list.iter().find(|field| self.is(field, key)).and_then(|field| self.kept(field))
    }

    fn kept(&self, field: &Field) -> Option<HeaderValue> {
        let (from, to) = (field.value.0 as usize, field.value.1 as usize);
        let value = match field.home {
            Home::Received => HeaderValue::from_maybe_shared(self.received.slice(from..to)),
            Home::Own => HeaderValue::from_bytes(self.own.get(from..to)?),
        };
        let mut value = value.ok()?;
        value.set_sensitive(field.sensitive);
        Some(value)
    }

    /// Puts a field in the place of those of its name, or behind the others.
    pub fn set<'k>(&mut self, key: impl Into<Key<'k>>, value: &HeaderValue) {
        self.replace(key.into(), value.as_bytes(), value.is_sensitive());
    }

    /// The same with a text of our own, which has nothing in it that a value must not have.
    pub fn set_text(&mut self, name: Name, value: &str) {
        debug_assert!(value.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{value:?} is no text of ours");
        self.replace(Key::Known(name), value.as_bytes(), false);
    }

    /// The same with a number.
    pub fn set_number(&mut self, name: Name, value: u64) {
        self.replace(Key::Known(name), itoa::Buffer::new().format(value).as_bytes(), false);
    }

    /// Puts a field behind the others, be there more of its name or not.
    pub fn append<'k>(&mut self, key: impl Into<Key<'k>>, value: &HeaderValue) {
        self.push(key.into(), value.as_bytes(), value.is_sensitive());
    }

    fn replace(&mut self, key: Key<'_>, value: &[u8], sensitive: bool) {
        let place = if self.has(key) { self.list.iter().position(|field| self.is(field, key)) } else { None };
        let Some(place) = place else { return self.push(key, value, sensitive) };
        let made = self.line(key, value, sensitive);
        if let Some(field) = self.list.get_mut(place) {
            *field = made;
        }
        for at in (place + 1..self.list.len()).rev() {
            if self.list.get(at).is_some_and(|field| self.is(field, key)) {
                self.list.remove(at);
            }
        }
    }

    fn push(&mut self, key: Key<'_>, value: &[u8], sensitive: bool) {
        if let Key::Known(name) = key {
            self.present.add(name);
        }
        let made = self.line(key, value, sensitive);
        self.list.push(made);
    }

    /// Writes a line of our own.
    fn line(&mut self, key: Key<'_>, value: &[u8], sensitive: bool) -> Field {
        let (known, name) = match key {
            Key::Known(name) => (Some(name), name.as_str().as_bytes()),
            Key::Other(name) => (None, name.as_str().as_bytes()),
        };
        if self.own.capacity() == 0 {
            self.own.reserve(OWN_TEXT);
        }
        let from = self.own.len() as u32;
        line(&mut self.own, name, value);
        let (name_end, end) = (from + name.len() as u32, self.own.len() as u32 - 2);
        Field { known, home: Home::Own, sensitive, name: (from, name_end), value: (name_end + 2, end) }
    }

    /// Takes out every field of that name.
    pub fn remove<'k>(&mut self, key: impl Into<Key<'k>>) {
        let key = key.into();
        if !self.has(key) {
            return;
        }
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| !self.is(field, key));
        self.list = list;
        if let Key::Known(name) = key {
            self.present.take(name);
        }
    }

    /// Takes out those of some names, and of the names that are not known those that `passes` says no to.
    pub fn sift(&mut self, ending: Names, passes: impl Fn(&[u8]) -> bool) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| match field.known {
            Some(known) => !ending.has(known),
            None => passes(self.text(field.home, field.name)),
        });
        self.list = list;
        self.present = self.present.without(ending);
    }

    /// Writes them as lines, but for those of some names.
    pub fn write(&self, into: &mut Vec<u8>, but: Names) {
        // Neighbours that stand as they are to be written leave in one piece.
        let (mut home, mut run) = (Home::Received, (0, 0));
        for field in &self.list {
            if field.known.is_some_and(|known| but.has(known)) {
                continue;
            }
            let line = if self.is_line(field) { (field.name.0, field.value.1 + 2) } else { (0, 0) };
            if line.1 > 0 && home == field.home && line.0 == run.1 {
                run.1 = line.1;
                continue;
            }
            into.extend_from_slice(self.text(home, std::mem::replace(&mut run, line)));
            home = field.home;
            if line.1 == 0 {
                let Seen { name, value, .. } = self.seen(field);
                self::line(into, name, value);
            }
        }
        into.extend_from_slice(self.text(home, run));
    }

    /// Whether a field stands as it is to be written.
    fn is_line(&self, field: &Field) -> bool {
        let between = |from, to| self.text(Home::Received, (from, to));
        field.home == Home::Own
            || (between(field.name.1, field.value.0) == b": " && between(field.value.1, field.value.1 + 2) == b"\r\n")
    }

    /// The fields of what `http` has.
    pub fn of_map(map: &HeaderMap) -> Self {
        let mut fields = Self { list: Vec::with_capacity(map.len() + OWN_FIELDS), ..Self::default() };
        for (name, value) in map {
            fields.append(name, value);
        }
        fields
    }

    /// As `http` has them. Values that were received are shared, not copied.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.list.len());
        for field in &self.list {
            let name = match field.known {
                Some(known) => Some(known.header()),
                None => HeaderName::from_bytes(self.seen(field).name).ok(),
            };
            // Neither fails: what was received was looked at byte by byte, and what was added was a name and a value.
            if let Some((name, value)) = name.zip(self.kept(field)) {
                map.append(name, value);
            }
        }
        map
    }
}

/// A value, if it is text.
fn text(value: &[u8]) -> Option<&str> {
    let is_text = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| is_text)
}

/// Writes one field.
pub(super) fn line(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    into.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        into.extend_from_slice(part);
    }
}

/// Names alone: a value may be a secret.
impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|field| String::from_utf8_lossy(field.name).into_owned())).finish()
    }
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
