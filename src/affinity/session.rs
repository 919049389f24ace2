//! Names of conversations: keyed hashes of what clients call them, or of how their prompts begin.

/// Bytes of the shortest beginning that is looked at, about 230 tokens: less is not worth going anywhere for.
const SHORTEST: usize = 1 << 10;
/// Beginnings, each twice as long as the one before. The longest has 64 KiB, which bounds what a request's name costs: to hash a KiB
/// takes about 700 instructions.
pub(super) const BEGINNINGS: usize = 7;
const LONGEST: usize = SHORTEST << (BEGINNINGS - 1);
/// Bytes that are taken in at once.
const BLOCK: usize = 16;
/// Blocks of a prompt that are taken in side by side. One after another each would wait for the multiplication before it.
const LANES: usize = 4;
/// A block for each of them.
const STRIPE: usize = LANES * BLOCK;

/// What makes the names of one process those of no other. It has no `Debug`.
#[derive(Clone, Copy)]
pub struct SessionKey([u64; 2]);

impl SessionKey {
    /// Of a random number.
    pub const fn new(random: [u64; 2]) -> Self {
        Self(random)
    }

    /// Takes a block into a hash: one wide multiplication, as wyhash has it (Wang Yi, 2019). It need not withstand anybody who knows
    /// the key, and who does not cannot make two beginnings have one name.
    const fn absorb(&self, state: u64, block: [u8; BLOCK]) -> u64 {
        let both = u128::from_le_bytes(block);
        let (low, high) = (both as u64, (both >> 64) as u64);
        fold(low ^ self.0[0], high ^ self.0[1] ^ state)
    }

    /// The numbers that it is made of, to be kept where hashes by it are.
    pub const fn to_kept(&self) -> [u64; 2] {
        self.0
    }

    /// A text's hash.
    pub fn hash(&self, text: &[u8]) -> u64 {
        let mut state = text.len() as u64;
        for part in text.chunks(BLOCK) {
            let mut block = [0; BLOCK];
            block[..part.len()].copy_from_slice(part);
            state = self.absorb(state, block);
        }
        fold(state ^ self.0[1], self.0[0])
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    product as u64 ^ (product >> 64) as u64
}

/// What a conversation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// By beginnings the shortest first; a name that was given stands alone.
    names: [u64; BEGINNINGS],
    count: u8,
    given: bool,
}

impl Session {
    /// A conversation that is called so.
    pub fn called(key: &SessionKey, name: &[u8]) -> Self {
        let mut names = [0; BEGINNINGS];
        names[0] = key.hash(name);
        Self { names, count: 1, given: true }
    }

    /// The same for one model, since no two share what they keep. `client` tells clients apart who may call two conversations the same, by
    /// a name that outlives a reload; where their prompts begin alike they share what is kept, as they do at the backend: who guesses how
    /// another's prompt begins may find out that it was sent.
    #[must_use]
    pub fn of(mut self, key: &SessionKey, model: &str, client: &str) -> Self {
        let salt = key.hash(model.as_bytes());
        let salt = if self.given { salt ^ key.hash(client.as_bytes()).rotate_left(1) } else { salt };
        for name in &mut self.names {
            // Not zero, which is nobody's name.
            *name = fold(*name ^ salt, key.0[0] | 1).max(1);
        }
        self
    }

    /// Whether the client gave it its name.
    pub(super) const fn is_given(&self) -> bool {
        self.given
    }

    /// Its names, the most telling first, each with the bytes of the prompt that it stands for: `None` for all of it.
    pub(super) fn names(&self) -> impl Iterator<Item = (u64, Option<u32>)> {
        let (given, count) = (self.given, usize::from(self.count));
        let names = self.names.into_iter().take(count).enumerate().rev();
        names.map(move |(nth, name)| (name, (!given).then_some((SHORTEST << nth) as u32)))
    }
}

/// Hashes the beginning of a prompt as it comes, however it is cut.
#[derive(Debug)]
pub struct PrefixScan {
    key: SessionKey,
    lanes: [u64; LANES],
    /// The part of a stripe that is there.
    stripe: [u8; STRIPE],
    filled: usize,
    /// Bytes taken in so far.
    hashed: usize,
    names: [u64; BEGINNINGS],
    count: u8,
}

impl PrefixScan {
    /// Before the first byte.
    pub const fn new(key: SessionKey) -> Self {
        // They differ, so that a block means something else in each.
        Self { key, lanes: [0, 1, 2, 3], stripe: [0; STRIPE], filled: 0, hashed: 0, names: [0; BEGINNINGS], count: 0 }
    }

    /// The key that it hashes with.
    pub const fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Goes on with the next part of the prompt. Beyond the longest beginning nothing is looked at.
    pub fn feed(&mut self, part: &[u8]) {
        let room = LONGEST - self.hashed - self.filled;
        let mut part = part.get(..room).unwrap_or(part);
        if self.filled > 0 {
            let taken = part.len().min(STRIPE - self.filled);
            self.stripe[self.filled..self.filled + taken].copy_from_slice(&part[..taken]);
            self.filled += taken;
            part = &part[taken..];
            if self.filled < STRIPE {
                return;
            }
            self.absorb(&[self.stripe]);
            self.filled = 0;
        }
        let (mut stripes, rest) = part.as_chunks::<STRIPE>();
        while !stripes.is_empty() {
            // Up to the next name in one go: this loop is what the hash costs.
            let left = (SHORTEST << self.count).saturating_sub(self.hashed) / STRIPE;
            let (now, later) = stripes.split_at(left.clamp(1, stripes.len()));
            self.absorb(now);
            stripes = later;
        }
        self.stripe[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    fn absorb(&mut self, stripes: &[[u8; STRIPE]]) {
        let (key, mut lanes) = (self.key, self.lanes);
        for stripe in stripes {
            for (lane, block) in lanes.iter_mut().zip(stripe.as_chunks::<BLOCK>().0) {
                *lane = key.absorb(*lane, *block);
            }
        }
        self.lanes = lanes;
        self.hashed += stripes.len() * STRIPE;
        if self.hashed == SHORTEST << self.count
            && let Some(name) = self.names.get_mut(usize::from(self.count))
        {
            *name = lanes.into_iter().fold(0, |name, lane| fold(lane ^ key.0[0], name ^ key.0[1]));
            self.count += 1;
        }
    }

    /// What the prompt is known by; `None` where it is too short to tell.
    pub fn session(&self) -> Option<Session> {
        (self.count > 0).then_some(Session { names: self.names, count: self.count, given: false })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: SessionKey = SessionKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);

    fn scanned(parts: &[&[u8]]) -> Option<Session> {
        let mut scan = PrefixScan::new(KEY);
        for part in parts {
            scan.feed(part);
        }
        scan.session()
    }

    fn names(session: Session) -> Vec<(u64, Option<u32>)> {
        session.names().collect()
    }

    #[test]
    fn a_turn_begins_as_the_one_before_did() {
        let text: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(scanned(&[&text[..SHORTEST - 1]]), None);
        let (before, after) = (scanned(&[&text[..5000]]).unwrap(), scanned(&[&text[..9000]]).unwrap());
        assert_eq!(names(before), names(after)[1..]);
        assert_eq!(names(after).iter().map(|(_, bytes)| bytes.unwrap()).collect::<Vec<_>>(), [8192, 4096, 2048, 1024]);
        let whole = scanned(&[&text]).unwrap();
        assert_eq!((names(whole).len(), names(whole)[0].1), (BEGINNINGS, Some(LONGEST as u32)), "and no more is looked at");
    }

    #[test]
    fn prompts_that_part_have_names_in_common_up_to_there() {
        let mut other = vec![b'x'; 10_000];
        let one = scanned(&[&other]).unwrap();
        other[3000] = b'y';
        let two = scanned(&[&other]).unwrap();
        let common = |nth: usize| names(one)[nth] == names(two)[nth];
        assert_eq!([0, 1, 2, 3].map(common), [false, false, true, true], "of 8, 4, 2 and 1 KiB");
    }

    #[test]
    fn prompts_that_say_the_same_in_another_order_are_others() {
        let text: Vec<u8> = (0..SHORTEST).map(|at| (at / BLOCK) as u8).collect();
        let one = names(scanned(&[&text]).unwrap());
        // Two blocks of a stripe, those of two lanes in two stripes, two stripes.
        for (a, b, length) in [(0, BLOCK, BLOCK), (BLOCK, STRIPE, BLOCK), (0, STRIPE, STRIPE)] {
            let mut other = text.clone();
            other[a..a + length].copy_from_slice(&text[b..b + length]);
            other[b..b + length].copy_from_slice(&text[a..a + length]);
            assert_ne!(names(scanned(&[&other]).unwrap()), one, "{a} {b} {length}");
        }
    }

    #[test]
    fn what_is_called_the_same_is_the_same_for_one_client_and_one_model() {
        let called = |name: &str, model, client| Session::called(&KEY, name.as_bytes()).of(&KEY, model, client);
        assert_eq!(called("a", "m", "blue"), called("a", "m", "blue"));
        let all = [
            called("a", "m", "blue"),
            called("b", "m", "blue"),
            called("a", "n", "blue"),
            called("a", "m", "red"),
            called("a\0", "m", "blue"),
        ];
        assert!((1..all.len()).all(|nth| !all[..nth].contains(&all[nth])));
        let prompt = scanned(&[&[b'p'; 1024]]).unwrap();
        assert_eq!(prompt.of(&KEY, "m", "blue"), prompt.of(&KEY, "m", "red"), "what they say alike is kept once");
        assert_ne!(prompt.of(&KEY, "m", "blue"), prompt.of(&KEY, "n", "blue"));
    }

    #[test]
    fn names_are_those_of_the_key() {
        let other = SessionKey::new([1, 2]);
        assert_ne!(Session::called(&KEY, b"a"), Session::called(&other, b"a"));
        assert_eq!(format!("{KEY:?}"), "SessionKey(..)");
    }

    proptest! {
        #[test]
        fn names_do_not_depend_on_how_a_prompt_is_cut(
            sizes in prop::collection::vec(0_usize..3000, 0..12), seed in any::<u64>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let text: Vec<u8> = (0..sizes.iter().sum()).map(|_| random.u8(..)).collect();
            let (mut scan, mut at) = (PrefixScan::new(KEY), 0);
            for size in sizes {
                scan.feed(&text[at..at + size]);
                at += size;
            }
            prop_assert_eq!(scan.session(), scanned(&[&text]));
        }
    }
}
