//! What of a line is the same for many requests, kept as it was written: the name and the place of a backend, a grid's reading with all
//! that it rests on.
//!
//! It is found by what it was written of and not by when: a plan or a grid that changes has other names and numbers, so nothing here
//! can be out of date, and nothing has to be told of a reload. To compare some words is a third of what it takes to write them: the two
//! intensities of a line took 2,890 instructions and take 810 (`benches/peers/instr.py`, its profile, without LTO).

/// Places of one kind of text, a power of two: a few dozen backends, each of them in one of two places.
const PLACES: usize = 256;

/// Texts with what they were written of.
#[derive(Debug)]
pub(super) struct Kept<T> {
    places: Box<[Option<T>]>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { places: std::iter::repeat_with(|| None).take(PLACES).collect() }
    }
}

impl<T> Kept<T> {
    /// The one that `is` meant, or else what `write` makes, which is kept then. `name` says where to look: the part of what they are
    /// written of that tells most of them apart.
    #[inline]
    pub(super) fn get(&mut self, name: &str, is: impl Fn(&T) -> bool, write: impl FnOnce() -> T) -> &T {
        let first = place(name);
        let found =
            [first, first ^ 1].into_iter().find(|place| self.places.get(*place).and_then(Option::as_ref).is_some_and(&is));
        let place = found.unwrap_or_else(|| self.make_room(first));
        #[expect(clippy::indexing_slicing, reason = "there are so many places")]
        self.places[place].get_or_insert_with(write)
    }

    /// Empties one of the two places: of two that are taken the one that was written earlier gives way.
    #[cold]
    fn make_room(&mut self, first: usize) -> usize {
        let (first, second) = (first & !1, first | 1);
        if let Some(free) = [first, second].into_iter().find(|place| matches!(self.places.get(*place), Some(None))) {
            return free;
        }
        self.places.swap(first, second);
        if let Some(place) = self.places.get_mut(second) {
            *place = None;
        }
        second
    }
}

/// Where a name is looked for first.
fn place(name: &str) -> usize {
    let name = name.as_bytes();
    let word = match (name.last_chunk::<8>(), name) {
        (Some(last), _) => u64::from_le_bytes(*last),
        (None, [first, .., last]) => u64::from(*first) | u64::from(*last) << 8 | (name.len() as u64) << 16,
        (None, [only]) => u64::from(*only),
        (None, []) => 0,
    };
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_is_what_was_meant_however_many_share_a_place(names in prop::collection::vec(("[ab]{0,9}", 0_u8..4), 0..2000)) {
            let mut kept = Kept::default();
            for it in names {
                prop_assert_eq!(kept.get(&it.0, |other| *other == it, || it.clone()), &it);
            }
        }
    }

    #[test]
    fn what_was_written_is_not_written_again_until_a_second_one_takes_its_place() {
        let mut kept = Kept::default();
        let mut written = |number: u8| {
            let mut written = false;
            kept.get(
                "here",
                |other| *other == number,
                || {
                    written = true;
                    number
                },
            );
            written
        };
        assert_eq!([1, 2, 1, 2, 3, 2, 1, 3].map(&mut written), [true, true, false, false, true, false, true, false]);
    }
}
