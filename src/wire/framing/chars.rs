//! Which byte may stand where: RFC 9110 for fields, RFC 3986 for targets and hosts.

/// A character of a token, and so of a field name (RFC 9110, 5.6.2).
pub(super) const TOKEN: u8 = 1;
/// A character of a method. All that are registered are upper case; a lower-case one is another method that nobody serves.
pub(super) const METHOD: u8 = 1 << 1;
/// A character of a target, escapes apart. Beyond RFC 3986 those that browsers leave as they are: `[ ] ^ { | }`.
pub(super) const TARGET: u8 = 1 << 2;
/// A character of a registered name (RFC 3986, 3.2.2), escapes apart.
pub(super) const HOST: u8 = 1 << 3;

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = classes_of(byte as u8);
        byte += 1;
    }
    classes
};

const fn classes_of(byte: u8) -> u8 {
    let alphanumeric = byte.is_ascii_alphanumeric();
    let mut classes = 0;
    if alphanumeric || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~') {
        classes |= TOKEN;
    }
    if byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_') {
        classes |= METHOD;
    }
    if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'%' | b'<' | b'>' | b'\\' | b'`') {
        classes |= TARGET;
    }
    if alphanumeric || matches!(byte, b'!' | b'$' | b'&'..=b'.' | b';' | b'=' | b'_' | b'~') {
        classes |= HOST;
    }
    classes
}

/// Whether a byte is of a class.
#[inline]
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Where the first byte is that is not of the class.
#[inline]
pub(super) fn end_of(class: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| !is(*byte, class))
}

/// A byte in each place of a word.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The eight bytes from there on, if there are so many.
#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Where a field name ends: at the first byte that is not of a token. Eight bytes at a time, as long as they are letters and
/// hyphens, which is what most names are made of.
#[inline]
pub(super) fn end_of_name(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        // Sums with seven bits stay within their byte, and its eighth says how they compare.
        let seven = word & each(0x7f);
        let lower = seven | each(0x20);
        let letter = (lower + each(0x80 - b'a')) & !(lower + each(0x7f - b'z'));
        let no_hyphen = (seven ^ each(b'-')) + each(0x7f);
        let other = ((!letter & no_hyphen) | word) & each(0x80);
        if other != 0 {
            at += other.trailing_zeros() as usize / 8;
            if bytes.get(at) == Some(&b':') {
                return Some(at);
            }
            break;
        }
        at += 8;
    }
    end_of(TOKEN, bytes.get(at..).unwrap_or_default()).map(|end| at + end)
}

/// Where the first byte is that no field value may contain: a control character other than the tab (RFC 9110, 5.5). Eight bytes at
/// a time, because values are most of a head.
#[inline]
pub(in crate::wire) fn end_of_value(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        let seven = word & each(0x7f);
        let (printable, delete) = (seven + each(0x80 - 0x20), seven + each(0x80 - 0x7f));
        let found = (!printable | delete) & !word & each(0x80);
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if bytes.get(at) != Some(&b'\t') {
            return Some(at);
        }
        at += 1;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t').map(|found| at + found)
}

/// Without the blanks around it.
#[inline]
pub(super) fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Two hexadecimal digits.
pub(super) fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low, ..] = bytes else { return None };
    Some((digit(*high)? << 4 | digit(*low)?) as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(class: u8) -> String {
        (0..=255_u8).filter(|byte| is(*byte, class) && !byte.is_ascii_alphanumeric()).map(char::from).collect()
    }

    #[test]
    fn classes_are_those_of_the_grammar() {
        assert_eq!(of(TOKEN), "!#$%&'*+-.^_`|~");
        assert_eq!(of(METHOD), "-_");
        assert_eq!(of(TARGET), "!$&'()*+,-./:;=?@[]^_{|}~");
        assert_eq!(of(HOST), "!$&'()*+,-.;=_~");
        assert!(!is(b'g', METHOD) && is(b'G', METHOD) && is(b'g', TOKEN));
    }

    #[test]
    fn blanks_go_and_nothing_else() {
        assert_eq!(trimmed(b" \t a b\t"), b"a b");
        assert_eq!(trimmed(b" \t"), b"");
        assert_eq!((hex_pair(b"0aX"), hex_pair(b"g0"), hex_pair(b"1")), (Some(10), None, None));
    }

    proptest! {
        #[test]
        fn eight_at_a_time_is_the_same_as_one(bytes in prop::collection::vec(prop_oneof![8 => 0x20_u8..=0xff, 1 => any::<u8>(), 1 => Just(b'\t')], 0..64)) {
            let plain = bytes.iter().position(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f);
            prop_assert_eq!(end_of_value(&bytes), plain);
        }

        #[test]
        fn names_too(name in "[A-Za-z-]{0,20}", bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let bytes = [name.as_bytes(), &bytes].concat();
            prop_assert_eq!(end_of_name(&bytes), end_of(TOKEN, &bytes));
        }
    }
}
