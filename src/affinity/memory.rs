//! Who served which conversation, and when.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::session::Session;

/// Conversations and beginnings of prompts that are remembered: 300 new ones a second for as long as a cache usually lasts. 2 MiB.
const ENTRIES: usize = 1 << 16;
/// Places that one entry may have; of more the oldest gives way.
const PLACES: usize = 3;
const PLACES_OF_BUCKET: usize = 4;
/// The most backends that are believed to have something of one prompt.
const MOST_WARM: usize = 8;

/// What a backend is known by here, also after a reload has given it another place in the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// Of a backend's name. Of sixty-four backends two share one with a chance of 1 in 500, and then each is taken for the other here.
    pub fn of(name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(((hash ^ hash >> 32) as u32 & Place::TAG_MASK).max(1))
    }
}

/// A backend that served something at some time, in one word: 20 bits of its tag, 20 of the second, 24 of the bytes. The seconds begin
/// again after 12 days, and what nobody asked for in so long is gone by then.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    const TAG_MASK: u32 = (1 << 20) - 1;
    const SECONDS: u64 = (1 << 20) - 1;
    const BYTES: u64 = (1 << 24) - 1;
    /// Of which the bytes are counted.
    const UNIT: u32 = 64;

    fn new(tag: Tag, second: u64, bytes: u32) -> Self {
        let units = u64::from(bytes.div_ceil(Self::UNIT)).min(Self::BYTES);
        Self(u64::from(tag.0) << 44 | (second & Self::SECONDS) << 24 | units)
    }

    const fn tag(self) -> Tag {
        Tag((self.0 >> 44) as u32)
    }

    const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn age(self, second: u64) -> u64 {
        second.wrapping_sub(self.0 >> 24) & Self::SECONDS
    }

    const fn bytes(self) -> u32 {
        (self.0 & Self::BYTES) as u32 * Self::UNIT
    }
}

/// One conversation, or one beginning of prompts.
#[derive(Debug, Default)]
struct Entry {
    name: AtomicU64,
    places: [AtomicU64; PLACES],
}

impl Entry {
    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.iter().map(|place| Place(place.load(Relaxed))).filter(|place| !place.is_empty())
    }

    /// How long ago it was served last.
    fn age(&self, second: u64) -> u64 {
        self.places().map(|place| place.age(second)).min().unwrap_or(u64::MAX)
    }

    /// It was served there now, and `alone` says that what others have of it counts for nothing any more.
    fn put(&self, place: Place, alone: bool, second: u64) {
        let oldest = || {
            let age = |slot: &&AtomicU64| match Place(slot.load(Relaxed)) {
                empty if empty.is_empty() => u64::MAX,
                other => other.age(second),
            };
            self.places.iter().max_by_key(age)
        };
        if alone {
            self.places.iter().for_each(|slot| slot.store(0, Relaxed));
        }
        let own = self.places.iter().find(|slot| Place(slot.load(Relaxed)).tag() == place.tag());
        if let Some(slot) = own.or_else(oldest) {
            slot.store(place.0, Relaxed);
        }
    }
}

/// Who served which conversation, and when: a table of a fixed size, shared by all workers.
#[derive(Debug)]
pub struct Memory {
    origin: Instant,
    buckets: Box<[[Entry; PLACES_OF_BUCKET]]>,
}

impl Memory {
    /// Nothing is remembered.
    pub fn new(origin: Instant) -> Self {
        Self { origin, buckets: (0..ENTRIES / PLACES_OF_BUCKET).map(|_| Default::default()).collect() }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs()
    }

    fn bucket(&self, name: u64) -> &[Entry] {
        let at = (name >> 32) as usize % self.buckets.len().max(1);
        self.buckets.get(at).map_or(&[], |bucket| bucket)
    }

    /// A backend has read a prompt of that conversation, in a body of so many bytes.
    pub fn served(&self, session: &Session, backend: Tag, body_bytes: usize, now: Instant) {
        let second = self.second(now);
        for (name, beginning) in session.names() {
            let bytes = beginning.unwrap_or_else(|| u32::try_from(body_bytes).unwrap_or(u32::MAX));
            let bucket = self.bucket(name);
            let known = bucket.iter().find(|entry| entry.name.load(Relaxed) == name);
            let Some(entry) = known.or_else(|| bucket.iter().max_by_key(|entry| entry.age(second))) else { continue };
            let is_new = entry.name.swap(name, Relaxed) != name;
            // Of a conversation that was given a name all turns but the last are older than what is sent now.
            entry.put(Place::new(backend, second, bytes), is_new || session.is_given(), second);
        }
    }

    /// Who has served that conversation within `ttl`, a body of so many bytes being the next turn.
    pub fn warm(&self, session: &Session, body_bytes: usize, ttl: Duration, now: Instant) -> Warm {
        let (second, mut warm) = (self.second(now), Warm { of: body_bytes.max(1), ..Warm::default() });
        for (name, _) in session.names() {
            if let Some(entry) = self.bucket(name).iter().find(|entry| entry.name.load(Relaxed) == name) {
                entry.places().filter(|place| place.age(second) <= ttl.as_secs()).for_each(|place| warm.add(place));
            }
        }
        warm
    }
}

/// The backends that have something of a prompt, and how much of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Warm {
    places: [(Tag, u32); MOST_WARM],
    count: usize,
    of: usize,
}

impl Warm {
    /// The most telling come first, so what is known of a backend stays.
    fn add(&mut self, place: Place) {
        let is_known = self.places.iter().take(self.count).any(|(tag, _)| *tag == place.tag());
        if let Some(slot) = self.places.get_mut(self.count).filter(|_| !is_known) {
            *slot = (place.tag(), place.bytes());
            self.count += 1;
        }
    }

    /// The share of the prompt that a backend was sent before, from 0 to 1.
    pub fn share(&self, backend: Tag) -> f64 {
        let known = self.places.iter().take(self.count).find(|(tag, _)| *tag == backend);
        known.map_or(0.0, |(_, bytes)| (f64::from(*bytes) / self.of as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::{PrefixScan, SessionKey};
    use super::*;
    use crate::clock::{Clock, SystemClock};

    const KEY: SessionKey = SessionKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
    const TTL: Duration = Duration::from_mins(5);

    fn memory() -> (Memory, Instant) {
        let now = SystemClock.monotonic();
        (Memory::new(now), now)
    }

    fn called(name: u32) -> Session {
        Session::called(&KEY, &name.to_le_bytes()).of(&KEY, "m", "")
    }

    fn beginning(text: &[u8]) -> Session {
        let mut scan = PrefixScan::new(KEY);
        scan.feed(text);
        scan.session().unwrap().of(&KEY, "m", "")
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.02
    }

    #[test]
    fn whoever_served_the_last_turn_has_it_until_its_time_is_over() {
        let (memory, now) = memory();
        let (here, there) = (Tag::of("here"), Tag::of("there"));
        let after = |seconds| now + Duration::from_secs(seconds);
        memory.served(&called(1), here, 6000, now);
        let warm = |bytes, at| memory.warm(&called(1), bytes, TTL, at);
        assert!(near(warm(8000, after(1)).share(here), 0.75) && warm(8000, after(1)).share(there) == 0.0);
        assert!(near(warm(3000, after(1)).share(here), 1.0), "no more than all");
        assert!(warm(8000, after(300)).share(here) > 0.0 && warm(8000, after(301)).share(here) == 0.0);
        assert!(memory.warm(&called(2), 8000, TTL, now).share(here) == 0.0);
        memory.served(&called(1), there, 8000, after(10));
        assert!(warm(8000, after(11)).share(here) == 0.0 && near(warm(8000, after(11)).share(there), 1.0));
    }

    #[test]
    fn of_prompts_that_begin_alike_each_backend_has_the_longest_that_it_was_sent() {
        let (memory, now) = memory();
        let tags = ["a", "b", "c", "d"].map(Tag::of);
        let mut text = vec![b'x'; 4000];
        memory.served(&beginning(&text), tags[0], 4000, now);
        text.extend([b'y'; 6000]);
        memory.served(&beginning(&text), tags[1], 10_000, now);
        let warm = memory.warm(&beginning(&text), 10_000, TTL, now);
        assert!(near(warm.share(tags[0]), 0.2048) && near(warm.share(tags[1]), 0.8192), "{warm:?}");
        text[9000] = b'z';
        let other = memory.warm(&beginning(&text[..5000]), 5000, TTL, now);
        assert!(near(other.share(tags[0]), 0.4096) && near(other.share(tags[1]), 0.8192), "{other:?}");
    }

    #[test]
    fn it_holds_many_and_then_forgets_the_oldest() {
        let (memory, now) = memory();
        let here = Tag::of("here");
        let many = 3 * ENTRIES as u32;
        for nth in 0..many {
            memory.served(&called(nth), here, 1000, now + Duration::from_millis(u64::from(nth)));
        }
        let later = now + Duration::from_millis(u64::from(many));
        let knows = |nth: u32| memory.warm(&called(nth), 1000, TTL, later).share(here) > 0.0;
        let of = |range: std::ops::Range<u32>| range.clone().filter(|nth| knows(*nth)).count() as f64 / range.len() as f64;
        let half = ENTRIES as u32 / 2;
        assert!(of(many - half..many) > 0.93, "{}", of(many - half..many));
        assert!(of(0..half) < 0.03);
    }

    #[test]
    fn it_is_shared_without_a_lock_and_stays_a_memory() {
        let (memory, now) = memory();
        let tags: Vec<Tag> = (0..6).map(|nth| Tag::of(&nth.to_string())).collect();
        std::thread::scope(|scope| {
            for tag in &tags {
                let (memory, tags) = (&memory, &tags);
                scope.spawn(move || {
                    for nth in 0..20_000 {
                        memory.served(&called(nth % 50), *tag, 1000, now);
                        let warm = memory.warm(&called(nth % 50), 1000, TTL, now);
                        assert!(warm.count <= PLACES && tags.iter().all(|tag| (0.0..=1.0).contains(&warm.share(*tag))));
                    }
                });
            }
        });
    }

    proptest::proptest! {
        #[test]
        fn a_place_is_what_was_put_into_it(name in "[a-z]{1,9}", second in 0_u64..1 << 20, bytes in 0_u32..1 << 29, later in 0_u64..1000) {
            let place = Place::new(Tag::of(&name), second, bytes);
            proptest::prop_assert_eq!((place.tag(), place.age(second + later)), (Tag::of(&name), later));
            proptest::prop_assert!(place.bytes() >= bytes && place.bytes() < bytes + Place::UNIT && !place.is_empty());
        }
    }
}
