//! A message as bytes: a head, then entries, each with its kind and length, so that a reader passes over kinds that it does not know.
//!
//! All numbers are little-endian. Names travel as 64-bit hashes, because replicas may run different plans for a while.

use smallvec::SmallVec;

use crate::live::{Asked, CELLS, Load, PROMPT_CLASSES, Taught};

/// How a message begins: what it is, and the version of all that follows.
const MAGIC: [u8; 4] = *b"WWP1";
/// The longest message with its seal, in bytes: below the 1,280 that every path of IPv6 carries whole.
pub const MOST_BYTES: usize = 1200;
/// What [`super::Seal`] adds.
pub(super) const SEAL_BYTES: usize = 32;
/// The most replicas that hear each other, this one aside: each message names all of them.
pub const MOST_PEERS: usize = 32;

const LOAD: u8 = 1;
const MODEL: u8 = 2;
const FLOW: u8 = 3;
const LEAVING: u8 = 4;
const SITE: u8 = 5;
const TIME: u8 = 6;
const ECHO: u8 = 7;

/// What every message begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The sender, by the random number of its run.
    pub(super) run: u64,
    /// Counts its messages up.
    pub(super) seq: u64,
    /// The runs that it has heard lately. Whoever is not among them is not spoken to: so a recording of earlier times says nothing.
    pub(super) heard: SmallVec<[u64; 16]>,
}

/// One thing that a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// What the sender has at a backend now.
    Load(u64, Load),
    /// What its responses taught of a model at a backend, since it began.
    Model(u64, Box<Taught>),
    /// What it was asked for on a route, since it began.
    Flow(u64, [Asked; PROMPT_CLASSES]),
    /// It ends, and is not to be waited for.
    Leaving,
    /// Where its first tokens are measured; stands before what they taught, and is left out where it has no name.
    Site(u64),
    /// When it said this, in milliseconds of its own clock, which begins anywhere.
    Time(u64),
    /// What the replica of that run said of its time, and how many milliseconds before this.
    Echo {
        /// Whose.
        run: u64,
        /// That time.
        time: u64,
        /// How long ago it came.
        held: u64,
    },
    /// Something of a later version.
    Other,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Of another version, or nothing of this kind at all.
    Version,
    /// Cut short, or with lengths that are not so.
    Malformed,
}

impl Head {
    /// Reads it, and gives what follows.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, Entries<'_>), Unread> {
        let mut reader = Reader(bytes);
        if reader.array::<4>().ok_or(Unread::Version)? != MAGIC {
            return Err(Unread::Version);
        }
        let head = reader.head().ok_or(Unread::Malformed)?;
        Ok((head, Entries(reader)))
    }

    /// The beginning of a message.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MOST_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(self.run.to_le_bytes());
        bytes.extend(self.seq.to_le_bytes());
        let heard = self.heard.get(..MOST_PEERS).unwrap_or(&self.heard);
        bytes.push(heard.len() as u8);
        bytes.extend(heard.iter().flat_map(|run| run.to_le_bytes()));
        bytes
    }
}

/// What a message says, one by one.
#[derive(Clone, Debug)]
pub(super) struct Entries<'a>(Reader<'a>);

impl Iterator for Entries<'_> {
    /// `None` where the bytes are no entry; then they end.
    type Item = Option<Entry>;

    fn next(&mut self) -> Option<Option<Entry>> {
        if self.0.0.is_empty() {
            return None;
        }
        let entry = self.0.entry();
        if entry.is_none() {
            self.0 = Reader(&[]);
        }
        Some(entry)
    }
}

impl Entry {
    /// Writes it behind what is there, if the message then still is no longer than a message may be.
    #[must_use]
    pub(super) fn write(&self, message: &mut Vec<u8>) -> bool {
        let before = message.len();
        let kind = match self {
            Self::Load(..) => LOAD,
            Self::Model(..) => MODEL,
            Self::Flow(..) => FLOW,
            Self::Leaving => LEAVING,
            Self::Site(_) => SITE,
            Self::Time(_) => TIME,
            Self::Echo { .. } => ECHO,
            Self::Other => return true,
        };
        message.extend([kind, 0, 0]);
        match self {
            Self::Load(name, load) => {
                message.extend(name.to_le_bytes());
                message.extend(load.in_flight.to_le_bytes());
                message.extend(load.pending_prompt_tokens.to_le_bytes());
            }
            Self::Model(name, taught) => {
                message.extend(name.to_le_bytes());
                write_taught(taught, message);
            }
            Self::Flow(name, asked) => {
                message.extend(name.to_le_bytes());
                for Asked { requests, streamed, prompt_tokens, output_tokens } in asked {
                    message.extend([requests, streamed, prompt_tokens, output_tokens].into_iter().flat_map(|n| n.to_le_bytes()));
                }
            }
            Self::Site(number) | Self::Time(number) => message.extend(number.to_le_bytes()),
            Self::Echo { run, time, held } => message.extend([run, time, held].into_iter().flat_map(|n| n.to_le_bytes())),
            Self::Leaving | Self::Other => {}
        }
        let length = (message.len() - before - 3) as u16;
        if let Some(place) = message.get_mut(before + 1..before + 3) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        let fits = message.len() + SEAL_BYTES <= MOST_BYTES;
        if !fits {
            message.truncate(before);
        }
        fits
    }
}

/// Cells and buckets that nothing was seen in are left out; a word of bits says which are there.
fn write_taught(taught: &Taught, message: &mut Vec<u8>) {
    let bits =
        |counts: &[u32; CELLS]| counts.iter().enumerate().fold(0_u32, |bits, (cell, count)| bits | u32::from(*count > 0) << cell);
    message.extend(bits(&taught.begun).to_le_bytes());
    for (begun, late) in taught.begun.iter().zip(&taught.late).filter(|(begun, _)| **begun > 0) {
        message.extend(begun.to_le_bytes());
        message.extend(late.to_le_bytes());
    }
    message.extend(taught.line.iter().flat_map(|sum| sum.to_le_bytes()));
    message.extend(bits(&taught.paced).to_le_bytes());
    for (paced, micros) in taught.paced.iter().zip(&taught.micros).filter(|(paced, _)| **paced > 0) {
        message.extend(paced.to_le_bytes());
        message.extend(micros.to_le_bytes());
    }
    message.extend(taught.squares.to_le_bytes());
}

/// Takes numbers off the front.
#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn head(&mut self) -> Option<Head> {
        let (run, seq, [count]) = (self.u64()?, self.u64()?, self.array()?);
        let heard = (0..count).map(|_| self.u64()).collect::<Option<_>>()?;
        Some(Head { run, seq, heard })
    }

    fn entry(&mut self) -> Option<Entry> {
        let ([kind], length) = (self.array()?, u16::from_le_bytes(self.array()?));
        let mut inside = Reader(self.take(length.into())?);
        let entry = match kind {
            LOAD => Entry::Load(inside.u64()?, Load { in_flight: inside.u32()?, pending_prompt_tokens: inside.u64()? }),
            MODEL => Entry::Model(inside.u64()?, Box::new(inside.taught()?)),
            FLOW => {
                let (name, mut asked) = (inside.u64()?, [Asked::default(); PROMPT_CLASSES]);
                for class in &mut asked {
                    *class = Asked {
                        requests: inside.u64()?,
                        streamed: inside.u64()?,
                        prompt_tokens: inside.u64()?,
                        output_tokens: inside.u64()?,
                    };
                }
                Entry::Flow(name, asked)
            }
            LEAVING => Entry::Leaving,
            SITE => Entry::Site(inside.u64()?),
            TIME => Entry::Time(inside.u64()?),
            ECHO => Entry::Echo { run: inside.u64()?, time: inside.u64()?, held: inside.u64()? },
            _ => return Some(Entry::Other),
        };
        inside.0.is_empty().then_some(entry)
    }

    fn taught(&mut self) -> Option<Taught> {
        let mut taught = Taught::default();
        let there = |bits: u32| move |cell: &usize| bits >> cell & 1 == 1;
        let begun = self.u32()?;
        for cell in (0..CELLS).filter(there(begun)) {
            *taught.begun.get_mut(cell)? = self.u32()?;
            *taught.late.get_mut(cell)? = self.u32()?;
        }
        for sum in &mut taught.line {
            *sum = self.u64()?;
        }
        let paced = self.u32()?;
        for bucket in (0..CELLS).filter(there(paced)) {
            *taught.paced.get_mut(bucket)? = self.u32()?;
            *taught.micros.get_mut(bucket)? = self.u64()?;
        }
        taught.squares = self.u64()?;
        ((begun | paced) >> CELLS == 0).then_some(taught)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a seed: arrays of strategies are too deep for a test's stack.
    fn taught() -> impl Strategy<Value = Taught> {
        any::<u64>().prop_map(|seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut taught = Taught { squares: random.u64(..), ..Taught::default() };
            taught.line.fill_with(|| random.u64(..));
            for cell in 0..CELLS {
                // Of what is left out nothing can be said.
                if random.bool() {
                    (taught.begun[cell], taught.late[cell]) = (random.u32(1..), random.u32(..));
                }
                if random.bool() {
                    (taught.paced[cell], taught.micros[cell]) = (random.u32(1..), random.u64(..));
                }
            }
            taught
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let asked = any::<[u64; 12]>().prop_map(|n| {
            std::array::from_fn(|class| Asked {
                requests: n[4 * class],
                streamed: n[4 * class + 1],
                prompt_tokens: n[4 * class + 2],
                output_tokens: n[4 * class + 3],
            })
        });
        prop_oneof![
            (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(name, in_flight, pending_prompt_tokens)| Entry::Load(
                name,
                Load { in_flight, pending_prompt_tokens }
            )),
            (any::<u64>(), taught()).prop_map(|(name, taught)| Entry::Model(name, Box::new(taught))),
            (any::<u64>(), asked).prop_map(|(name, asked)| Entry::Flow(name, asked)),
            any::<u64>().prop_map(Entry::Site),
            any::<u64>().prop_map(Entry::Time),
            any::<[u64; 3]>().prop_map(|[run, time, held]| Entry::Echo { run, time, held }),
            Just(Entry::Leaving),
        ]
    }

    #[test]
    fn the_largest_entry_fits_beside_the_longest_head() {
        let mut message = Head { run: 1, seq: 1, heard: SmallVec::from_elem(7, MOST_PEERS + 9) }.write();
        assert!(Entry::Site(1).write(&mut message) && Entry::Time(1).write(&mut message));
        let mut echoes = message.clone();
        assert!((0..MOST_PEERS).all(|_| Entry::Echo { run: 1, time: 1, held: 1 }.write(&mut echoes)), "or as many echoes");
        let full = Taught { begun: [1; CELLS], late: [1; CELLS], paced: [1; CELLS], ..Taught::default() };
        assert!(Entry::Model(1, Box::new(full)).write(&mut message));
        assert!(message.len() + SEAL_BYTES <= MOST_BYTES);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let mut message = Head::default().write();
        message.extend([99, 2, 0, 7, 7]);
        assert!(Entry::Leaving.write(&mut message));
        let (_, entries) = Head::read(&message).unwrap();
        assert_eq!(entries.collect::<Vec<_>>(), [Some(Entry::Other), Some(Entry::Leaving)]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            run: u64, seq: u64, heard in proptest::collection::vec(any::<u64>(), 0..MOST_PEERS),
            said in proptest::collection::vec(entry(), 0..4), cut in 0_usize..1000,
        ) {
            let head = Head { run, seq, heard: heard.into() };
            let mut message = head.write();
            let said: Vec<Entry> = said.into_iter().filter(|entry| entry.write(&mut message)).collect();
            let (read, entries) = Head::read(&message).unwrap();
            prop_assert_eq!(read, head);
            prop_assert_eq!(entries.collect::<Option<Vec<_>>>(), Some(said.clone()));
            // Cut short, it ends with what is not there, or earlier between two entries.
            let cut = &message[..cut.min(message.len())];
            if let Ok((_, entries)) = Head::read(cut) {
                let read: Vec<_> = entries.take_while(Option::is_some).flatten().collect();
                prop_assert!(said.starts_with(&read));
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300), like_one: bool) {
            let bytes = if like_one { [&MAGIC[..], &[0; 16], &[0], &bytes].concat() } else { bytes };
            if let Ok((_, entries)) = Head::read(&bytes) {
                prop_assert!(entries.count() <= 300);
            }
        }
    }
}
