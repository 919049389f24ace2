//! Which backend handed out an id: what lives in one place is there and nowhere else.
//!
//! A file, a batch, a stored response or a conversation is known to the backend that made it and to no other, so a request that names it
//! goes there, whatever a grid says. Of each id a keyed hash is kept, with the backend's tag, the hour, and the client that made it: no
//! text, since nobody has to read it again.
//!
//! It is a table of relaxed atomics of a fixed size, shared by all workers, for the reasons that [`crate::affinity`] gives. The oldest
//! gives way, where being named again makes young. Answers, of which every call of the Responses API leaves one, have a table of their
//! own, so that they drive out no file; and a client with a key of its own drives others out of no more than half of the places. When a
//! worker reads an entry that another writes, it may see the id of one and the place of the other; 16 bits of the id stand with the place
//! as well, so that this is seen.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::affinity::SessionKey;

/// Answers that are remembered: 36 a second for an hour. 2 MiB.
const ANSWERS: usize = 1 << 17;
/// Things that are remembered, which clients make by hand or by batches. 1 MiB.
const THINGS: usize = 1 << 16;
/// Entries that may take each other's place.
const BUCKET: usize = 8;
/// Of these, as many one client may take from others.
const OWN: usize = BUCKET / 2;
/// Most entries of a file that are looked at.
const MOST_KEPT: usize = ANSWERS + THINGS;
/// An entry that is named is made young again after so many minutes, and not with every request.
const YOUNG: u64 = 60;

/// What a backend is known by here, also after a restart and under another plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(u32);

impl Home {
    const BITS: u32 = 24;

    /// Of a backend's name. Of sixty-four backends two share one with a chance of 1 in 8000; then the first of them is taken.
    pub fn of(name: &str) -> Self {
        Self((fnv(name) as u32 >> (32 - Self::BITS)).max(1))
    }
}

/// Who made it: a client that is known by its key, or anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker(u8);

impl Maker {
    /// Of the name of a client's key; `None` where there are no keys. Two of 255 clients may share one, and then share their half.
    pub fn of(key: Option<&str>) -> Self {
        Self(key.map_or(0, |name| (fnv(name) as u8).max(1)))
    }
}

/// The better half of FNV-1a.
fn fnv(name: &str) -> u64 {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash >> 32 ^ hash & 0xffff_ffff
}

/// Where something is, in one word: 24 bits of its home, 8 of its maker, 16 of the minute, 16 of the id. The minutes begin again after
/// 45 days, which only makes something old look young.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    const fn new(home: Home, maker: Maker, minute: u64, id: u64) -> Self {
        Self((home.0 as u64) << 40 | (maker.0 as u64) << 32 | (minute & 0xffff) << 16 | id & 0xffff)
    }

    const fn home(self) -> Home {
        Home((self.0 >> 40) as u32)
    }

    const fn maker(self) -> Maker {
        Maker((self.0 >> 32) as u8)
    }

    const fn age(self, minute: u64) -> u64 {
        minute.wrapping_sub(self.0 >> 16) & 0xffff
    }

    const fn is_of(self, id: u64) -> bool {
        self.0 != 0 && self.0 & 0xffff == id & 0xffff
    }

    const fn at(self, minute: u64) -> Self {
        Self::new(self.home(), self.maker(), minute, self.0)
    }
}

#[derive(Debug, Default)]
struct Entry {
    id: AtomicU64,
    place: AtomicU64,
}

impl Entry {
    fn place(&self) -> Place {
        Place(self.place.load(Relaxed))
    }

    fn is(&self, id: u64) -> bool {
        self.id.load(Relaxed) == id && self.place().is_of(id)
    }

    fn put(&self, id: u64, place: Place) {
        self.place.store(0, Relaxed);
        self.id.store(id, Relaxed);
        self.place.store(place.0, Relaxed);
    }
}

#[derive(Debug)]
struct Table(Box<[[Entry; BUCKET]]>);

impl Table {
    fn new(entries: usize) -> Self {
        Self((0..entries / BUCKET).map(|_| Default::default()).collect())
    }

    fn bucket(&self, id: u64) -> &[Entry] {
        let at = (id >> 32) as usize % self.0.len().max(1);
        self.0.get(at).map_or(&[], |bucket| bucket)
    }

    fn find(&self, id: u64) -> Option<&Entry> {
        self.bucket(id).iter().find(|entry| entry.is(id))
    }

    fn put(&self, id: u64, place: Place, minute: u64) {
        let bucket = self.bucket(id);
        let oldest = |among: &dyn Fn(Place) -> bool| {
            let some = bucket.iter().filter(|entry| among(entry.place()));
            some.max_by_key(|entry| entry.place().age(minute))
        };
        let maker = place.maker();
        let own = |other: Place| other.0 != 0 && other.maker() == maker;
        let known = self.find(id).or_else(|| bucket.iter().find(|entry| entry.place().0 == 0));
        let has_its_share = maker != Maker(0) && bucket.iter().filter(|entry| own(entry.place())).count() >= OWN;
        let entry = known.or_else(|| if has_its_share { oldest(&own) } else { oldest(&|_| true) });
        if let Some(entry) = entry {
            entry.put(id, place);
        }
    }

    fn entries(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let all = self.0.iter().flatten().map(|entry| (entry.id.load(Relaxed), entry.place()));
        all.filter(|(id, place)| place.is_of(*id)).map(|(id, place)| (id, place.0))
    }
}

/// Whether an id is that of an answer, by how it begins.
fn is_answer(id: &[u8]) -> bool {
    id.starts_with(b"resp") || id.starts_with(b"chatcmpl")
}

/// Where everything is that a backend has handed out an id for, as far as it is remembered.
#[derive(Debug)]
pub struct Pins {
    key: OnceLock<SessionKey>,
    answers: Table,
    things: Table,
    /// Whether there ever was a thing, so that nobody else looks for names of any.
    things_put: AtomicU64,
}

impl Default for Pins {
    fn default() -> Self {
        let (answers, things) = (Table::new(ANSWERS), Table::new(THINGS));
        Self { key: OnceLock::new(), answers, things, things_put: AtomicU64::new(0) }
    }
}

impl Pins {
    /// Gives it the key of its hashes, unless it has one from before.
    pub fn begin(&self, key: SessionKey) {
        let _ = self.key.set(key);
    }

    fn hash(&self, id: &[u8]) -> Option<u64> {
        self.key.get().map(|key| key.hash(id))
    }

    fn table(&self, id: &[u8]) -> &Table {
        if is_answer(id) { &self.answers } else { &self.things }
    }

    /// Whether anything but an answer was ever made.
    pub fn has_things(&self) -> bool {
        self.things_put.load(Relaxed) > 0
    }

    /// How many are remembered. It counts them.
    pub fn len(&self) -> usize {
        self.answers.entries().count() + self.things.entries().count()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A backend has handed out that id, in that minute.
    pub fn put(&self, id: &[u8], home: Home, maker: Maker, minute: u64) {
        let Some(hash) = self.hash(id) else { return };
        self.table(id).put(hash, Place::new(home, maker, minute, hash), minute);
        if !is_answer(id) {
            self.things_put.fetch_add(1, Relaxed);
        }
    }

    /// Where it is; `None` where that is not known.
    pub fn find(&self, id: &[u8], minute: u64) -> Option<Home> {
        let hash = self.hash(id)?;
        let entry = self.table(id).find(hash)?;
        let place = entry.place();
        if place.age(minute) > YOUNG && place.is_of(hash) {
            // Only if nobody has put something else there meanwhile.
            let _ = entry.place.compare_exchange(place.0, place.at(minute).0, Relaxed, Relaxed);
        }
        place.is_of(hash).then(|| place.home())
    }

    /// It is no more.
    pub fn forget(&self, id: &[u8]) {
        let Some(hash) = self.hash(id) else { return };
        if let Some(entry) = self.table(id).find(hash) {
            entry.place.store(0, Relaxed);
        }
    }

    /// What is to be kept for another process. Whoever reads it can test guesses of ids, and learns none.
    pub fn kept(&self) -> Option<KeptPins> {
        let key = self.key.get()?.to_kept();
        Some(KeptPins { key, answers: self.answers.entries().collect(), things: self.things.entries().collect() })
    }

    /// Takes that over, before anything else is known; how many there were.
    pub fn restore(&self, kept: &KeptPins, minute: u64) -> usize {
        if self.key.set(SessionKey::new(kept.key)).is_err() {
            return 0;
        }
        for (table, entries) in [(&self.answers, &kept.answers), (&self.things, &kept.things)] {
            for (id, place) in entries.iter().take(MOST_KEPT).filter(|(id, place)| Place(*place).is_of(*id)) {
                table.put(*id, Place(*place), minute);
            }
        }
        self.things_put.fetch_add(kept.things.len() as u64, Relaxed);
        kept.answers.len() + kept.things.len()
    }
}

/// What is remembered, as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptPins {
    key: [u64; 2],
    answers: Vec<(u64, u64)>,
    things: Vec<(u64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);

    fn pins() -> Pins {
        let pins = Pins::default();
        pins.begin(KEY);
        pins
    }

    fn file(nth: usize) -> Vec<u8> {
        format!("file-{nth}").into_bytes()
    }

    #[test]
    fn what_was_handed_out_is_found_until_it_is_no_more() {
        let pins = pins();
        let (here, there) = (Home::of("here"), Home::of("there"));
        assert!(!pins.has_things() && pins.is_empty());
        pins.put(b"resp_1", here, Maker::of(None), 5);
        assert!(!pins.has_things());
        pins.put(b"file-1", there, Maker::of(Some("blue")), 5);
        assert!(pins.has_things());
        assert_eq!((pins.find(b"resp_1", 6), pins.find(b"file-1", 6), pins.find(b"file-2", 6)), (Some(here), Some(there), None));
        pins.put(b"file-1", here, Maker::of(None), 7);
        assert_eq!((pins.find(b"file-1", 7), pins.len()), (Some(here), 2));
        pins.forget(b"file-1");
        assert_eq!((pins.find(b"file-1", 7), pins.len()), (None, 1));
        assert_eq!(Pins::default().find(b"resp_1", 0), None, "without a key it knows nothing");
    }

    #[test]
    fn the_oldest_gives_way_and_what_is_named_stays_young() {
        let pins = pins();
        let (here, nobody) = (Home::of("here"), Maker::of(None));
        pins.put(b"file-kept", here, nobody, 0);
        let knows = |range: std::ops::Range<usize>| range.clone().filter(|nth| pins.find(&file(*nth), 0).is_some()).count();
        for minute in 0..40 {
            for nth in 0..THINGS / 8 {
                pins.put(&file(minute * THINGS / 8 + nth), here, nobody, minute as u64 * 100);
            }
            assert_eq!(pins.find(b"file-kept", minute as u64 * 100), Some(here), "{minute}");
        }
        let all = 40 * THINGS / 8;
        assert!(knows(all - THINGS / 2..all) > THINGS / 2 * 95 / 100 && knows(0..THINGS) == 0);
        assert!(pins.len() <= THINGS);
    }

    #[test]
    fn a_client_drives_others_out_of_half_of_the_places_at_most_and_answers_drive_out_no_thing() {
        let pins = pins();
        let here = Home::of("here");
        let others = THINGS / 4;
        (0..others).for_each(|nth| pins.put(&file(nth), here, Maker::of(Some("red")), 0));
        (0..4 * THINGS).for_each(|nth| pins.put(&file(others + nth), here, Maker::of(Some("blue")), 1));
        let left = (0..others).filter(|nth| pins.find(&file(*nth), 1).is_some()).count();
        assert!(left > others * 95 / 100, "{left} of {others}");
        let flood = |nth: usize| format!("resp_{nth}").into_bytes();
        (0..2 * ANSWERS).for_each(|nth| pins.put(&flood(nth), here, Maker::of(None), 2));
        assert_eq!((0..others).filter(|nth| pins.find(&file(*nth), 2).is_some()).count(), left);
    }

    #[test]
    fn what_is_kept_is_known_again_and_nothing_else_is_taken() {
        let (pins, again) = (pins(), Pins::default());
        (0..100).for_each(|nth| pins.put(&file(nth), Home::of(&nth.to_string()), Maker::of(None), 3));
        let kept = serde_json::to_string(&pins.kept().unwrap()).unwrap();
        assert!(!kept.contains("file"));
        let mut kept: KeptPins = serde_json::from_str(&kept).unwrap();
        kept.things.extend([(1, 0), (2, 3 << 40)]);
        assert_eq!(again.restore(&kept, 4), 102);
        again.begin(SessionKey::new([1, 2]));
        (0..100).for_each(|nth| assert_eq!(again.find(&file(nth), 4), Some(Home::of(&nth.to_string()))));
        assert_eq!((again.len(), again.restore(&kept, 4)), (100, 0), "and only once");
    }

    #[test]
    fn many_may_read_and_write_it_and_no_id_is_ever_found_where_it_never_was() {
        let pins = pins();
        let homes: Vec<Home> = (0..4).map(|nth| Home::of(&nth.to_string())).collect();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (pins, homes) = (&pins, &homes);
                scope.spawn(move || {
                    for nth in 0..50_000 {
                        let id = (nth * 7 + worker) % (2 * THINGS);
                        pins.put(&file(id), homes[id % 4], Maker::of(None), 0);
                        let found = pins.find(&file(nth), 0);
                        assert!(found.is_none_or(|home| home == homes[nth % 4]));
                    }
                });
            }
        });
    }
}
