//! The time as `Date` has it, written anew once a second.

use std::cell::Cell;

use jiff::fmt::rfc2822::DateTimePrinter;

use crate::clock::{Clock as _, SystemClock};

/// Bytes of a date.
pub(super) const LENGTH: usize = 29;

thread_local! {
    static LAST: Cell<(i64, [u8; LENGTH])> = const { Cell::new((i64::MIN, [b' '; LENGTH])) };
}

/// Now, by RFC 9110, 5.6.7.
pub(super) fn now() -> [u8; LENGTH] {
    let now = SystemClock.wall();
    let (second, text) = LAST.get();
    if second == now.as_second() {
        return text;
    }
    let printed = DateTimePrinter::new().timestamp_to_rfc9110_string(&now).ok();
    // Before the year 0 and after 9999 it would be none.
    let text = printed.and_then(|printed| printed.into_bytes().try_into().ok()).unwrap_or(text);
    LAST.set((now.as_second(), text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_and_stays_so() {
        let second = || SystemClock.wall().as_second();
        for _ in 0..3 {
            let (before, text, after) = (second(), String::from_utf8(now().to_vec()).unwrap(), second());
            let told = jiff::fmt::rfc2822::parse(&text).unwrap().timestamp().as_second();
            assert!(text.ends_with(" GMT") && (before..=after).contains(&told), "{before} {text} {after}");
        }
    }
}
