//! Leaves `usage` out of an event that is too long to be held: byte by byte, as it goes by. What is held of it is no more than the
//! beginning of a member that may be the one.

/// What is left out, as it stands in the text.
const NAME: &[u8] = b"\"usage\"";
/// Most bytes of a member's beginning that are held: its comma, its name and the spaces between. More than that no writer makes.
const HELD_BYTES: usize = 256;

/// An event's way through.
#[derive(Debug, Default)]
pub(super) struct LeaveOut {
    depth: u32,
    in_string: bool,
    escaped: bool,
    state: State,
    /// What stays if it is not the member after all.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Stays,
    /// Where a member of the top object may begin; so many bytes of the name have come.
    Name(usize),
    Colon,
    Value,
    /// Within the value, which goes.
    Goes,
    /// Behind the first member of the object, which takes the comma behind it along.
    Comma,
}

impl LeaveOut {
    /// Writes what stays of more of the event.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for byte in bytes {
            self.take(*byte, out);
        }
    }

    /// Writes what was held when the event ended.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        let is_space = super::json::is_space(byte);
        match self.state {
            State::Stays => return self.stay(byte, out),
            State::Goes => return self.go(byte),
            State::Name(matched) if NAME.get(matched) == Some(&byte) => {
                self.state = if matched + 1 == NAME.len() { State::Colon } else { State::Name(matched + 1) };
            }
            State::Colon if byte == b':' => self.state = State::Value,
            State::Value if byte == b'{' => {
                self.state = State::Goes;
                self.depth += 1;
            }
            State::Name(0) | State::Colon | State::Value | State::Comma if is_space && self.held.len() < HELD_BYTES => {}
            State::Comma if byte == b',' => {
                self.held.clear();
                self.state = State::Stays;
                return;
            }
            State::Name(_) | State::Colon | State::Value | State::Comma => {
                // Some other member. Of its name the quote has come where anything of it has.
                self.in_string = matches!(self.state, State::Name(1..));
                self.state = State::Stays;
                out.append(&mut self.held);
                return self.stay(byte, out);
            }
        }
        self.held.push(byte);
    }

    fn stay(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.in_string {
            self.string(byte);
        } else {
            match byte {
                b'"' => self.in_string = self.depth > 0,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth == 1 && byte == b'{' {
                        self.state = State::Name(0);
                    }
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if self.depth == 1 => {
                    self.state = State::Name(0);
                    self.held.push(byte);
                    return;
                }
                _ => {}
            }
        }
        out.push(byte);
    }

    fn go(&mut self, byte: u8) {
        if self.in_string {
            return self.string(byte);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 1 {
                    let was_first = self.held.first() != Some(&b',');
                    self.state = if was_first { State::Comma } else { State::Stays };
                    self.held.clear();
                }
            }
            _ => {}
        }
    }

    fn string(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn left(text: &str) -> String {
        let (mut one, mut out) = (LeaveOut::default(), Vec::new());
        one.feed(text.as_bytes(), &mut out);
        one.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_top_objects_own_member_goes() {
        for (with, without) in [
            (r#"data: {"a":1,"usage":{"b":{"c":"}"}},"d":2}"#, r#"data: {"a":1,"d":2}"#),
            (r#"data: {"a":1 , "usage" : {} }"#, r#"data: {"a":1  }"#),
            (r#"data: { "usage":{"x":[1,"]"]} , "d":2}"#, r#"data: { "d":2}"#),
            (r#"data: {"usage":{}}"#, "data: {}"),
            (r#"{"usages":{},"usag":{},"u\"sage":{},"use":1}"#, r#"{"usages":{},"usag":{},"u\"sage":{},"use":1}"#),
            (r#"{"usage":null,"a":"usage","b":{"usage":{}}}"#, r#"{"usage":null,"a":"usage","b":{"usage":{}}}"#),
            (r#"["a","usage",{}]"#, r#"["a","usage",{}]"#),
            (r#"{"a":",\"usage\":{}"}"#, r#"{"a":",\"usage\":{}"}"#),
            (r#"{"a":1,"usage":{"cut"#, r#"{"a":1,"usage":{"#),
        ] {
            assert_eq!(left(with), without, "{with}");
        }
        let spaced = format!(r#"{{"a":1,{}"usage":{{}}}}"#, " ".repeat(2 * HELD_BYTES));
        assert_eq!(left(&spaced), spaced, "no more is held than has a bound");
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_object_without_it(
            members in prop::collection::vec(("[a-z\"\\\\]{0,5}|usage", "[usage{}\\[\\]\",:\\\\ ]{0,9}"), 0..5),
            place in 0usize..6, pretty: bool,
        ) {
            let mut texts: Vec<String> = members.iter()
                .map(|(name, value)| format!("{}:{}", Value::from(&**name), json!([value, { "usage": value }])))
                .collect();
            let rest: Value = serde_json::from_str(&format!("{{{}}}", texts.join(","))).unwrap();
            texts.insert(place.min(texts.len()), r#""usage" : { "a" : "}" }"#.to_owned());
            let text = format!("{{{}}}", texts.join(if pretty { " ,\n " } else { "," }));
            prop_assert_eq!(serde_json::from_str::<Value>(&left(&text)).unwrap(), rest);
        }

        #[test]
        fn nothing_of_any_other_text_is_lost(text in r#"("usage"|:|\{|\}|\[|\]|"|\\|,| |a){0,30}"#) {
            prop_assume!(serde_json::from_str::<Value>(&text).is_err() && !text.contains(r#""usage""#));
            prop_assert_eq!(left(&text), text);
        }
    }
}
