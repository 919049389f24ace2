//! The exchange's own id.

/// A number in 16 hexadecimal digits: as these, because each exchange tells them to its backend, its client and the log. A header value
/// of them, and one of the trace that begins with them, cost 700 instructions more (`benches/peers/instr.py`, its profile, without LTO).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Id([u8; 16]);

impl Id {
    pub(super) fn of(number: u64) -> Self {
        Self(hex(number))
    }

    pub(super) const fn digits(&self) -> &[u8; 16] {
        &self.0
    }

    pub(super) fn as_str(&self) -> &str {
        // They are digits.
        std::str::from_utf8(&self.0).unwrap_or("0")
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A number in 16 hexadecimal digits, all at once: it is done twice for every request.
pub(super) fn hex(number: u64) -> [u8; 16] {
    /// The byte in each of 16 places.
    const EACH: u128 = u128::MAX / 255;
    // Each half goes on until every byte has its four bits.
    let mut digits = u128::from(number);
    digits = (digits | digits << 32) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    // From ten on, six more carry into the next bit.
    let letters = (digits + 6 * EACH) >> 4 & EACH;
    (digits + EACH * u128::from(b'0') + letters * u128::from(b'a' - b'0' - 10)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_everybody_writes_it() {
        for number in [0, 1, 9, 10, 15, 16, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX, 0x77df_26e6_0000_005d] {
            assert_eq!(Id::of(number).as_str(), format!("{number:016x}"), "{number}");
        }
    }
}
