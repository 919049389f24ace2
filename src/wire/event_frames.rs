//! Where AWS's binary frames begin and end. How long one is stands in its first four bytes, so that one beyond the limit is known for
//! that before it is kept.

/// Prelude and checksums: no frame is shorter.
const LEAST: usize = 16;

/// The memory that is kept between two frames, in bytes. Nearly all are shorter.
const KEPT: usize = 16 << 10;

/// Cuts a stream into frames.
#[derive(Debug)]
pub(super) struct EventFrames {
    /// The longest frame that is kept, in bytes.
    most: usize,
    /// The beginning of a frame that a cut divides, or all of one that was handed out.
    held: Vec<u8>,
    handed_out: bool,
    /// What is still to come of a frame that is passed over.
    skip: usize,
    /// It is no such stream, or not one from here on.
    lost: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A whole frame.
    Frame(&'a [u8]),
    /// One beyond the limit begins, and is passed over.
    TooLong,
    /// What follows is no frame.
    Lost,
}

impl EventFrames {
    /// Before the first byte, for frames of up to `most` bytes.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, held: Vec::new(), handed_out: false, skip: 0, lost: false }
    }

    /// What follows a broken frame cannot be told from noise.
    pub(super) const fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether the stream ended within a frame.
    pub(super) const fn is_within(&self) -> bool {
        !self.lost && (self.skip > 0 || !self.handed_out && !self.held.is_empty())
    }

    /// Bytes of a frame that are held until it is whole.
    pub(super) const fn held(&self) -> usize {
        if self.handed_out { 0 } else { self.held.len() }
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(super) const fn kept(&self) -> usize {
        self.held.capacity()
    }

    /// The next frame that ends in the chunk, of which it takes what belongs to that; `None` when the chunk is used up.
    pub(super) fn next<'s, 'c: 's>(&'s mut self, chunk: &mut &'c [u8]) -> Option<Piece<'s>> {
        if std::mem::take(&mut self.handed_out) {
            self.held.clear();
            // A stream may last for minutes after its only long frame.
            self.held.shrink_to(KEPT);
        }
        while !self.lost {
            if self.skip > 0 {
                self.skip -= take(chunk, self.skip).len();
            }
            let length = if self.held.is_empty() { length_of(chunk) } else { length_of(&self.held) };
            match length {
                Some(length) if length < LEAST => {
                    self.lost = true;
                    return Some(Piece::Lost);
                }
                Some(length) if length > self.most => {
                    self.skip = length - self.held.len();
                    self.held.clear();
                    return Some(Piece::TooLong);
                }
                // Most often a frame comes as a whole.
                Some(length) if self.held.is_empty() && chunk.len() >= length => return Some(Piece::Frame(take(chunk, length))),
                _ if chunk.is_empty() => return None,
                Some(length) => self.held.extend_from_slice(take(chunk, length - self.held.len())),
                None => self.held.extend_from_slice(take(chunk, 4 - self.held.len())),
            }
            if length == Some(self.held.len()) {
                self.handed_out = true;
                return Some(Piece::Frame(&self.held));
            }
        }
        None
    }
}

/// So many bytes of a chunk, as far as there are.
fn take<'a>(chunk: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (part, rest) = chunk.split_at(count.min(chunk.len()));
    *chunk = rest;
    part
}

/// The length that a frame begins with.
pub(super) fn length_of(frame: &[u8]) -> Option<usize> {
    let (length, _) = frame.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(chunks: &[&[u8]]) -> (Vec<String>, bool) {
        let (mut frames, mut found) = (EventFrames::new(40), Vec::new());
        for chunk in chunks {
            let mut chunk = *chunk;
            while let Some(piece) = frames.next(&mut chunk) {
                found.push(format!("{piece:?}"));
            }
        }
        (found, frames.is_within())
    }

    #[test]
    fn a_long_frame_is_not_remembered() {
        let mut frames = EventFrames::new(1 << 20);
        let long = [&(1_u32 << 20).to_be_bytes()[..], &vec![7; (1 << 20) - 4]].concat();
        let (begin, end) = long.split_at(9);
        assert!(frames.next(&mut &begin[..]).is_none());
        assert!(matches!(frames.next(&mut &end[..]), Some(Piece::Frame(_))));
        assert!(frames.kept() >= 1 << 20);
        assert!(frames.next(&mut &b""[..]).is_none());
        assert!(frames.kept() <= KEPT);
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            lengths in prop::collection::vec(prop_oneof![8 => 16_u32..60, 1 => 0_u32..16], 0..8), last in 0_usize..60,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let frame = |length: &u32| [&length.to_be_bytes()[..], &vec![7; (*length as usize).saturating_sub(4)]].concat();
            let mut stream: Vec<u8> = lengths.iter().flat_map(frame).collect();
            stream.truncate(stream.len().saturating_sub(last));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(pieces(&chunks), pieces(&[&stream]));
        }
    }
}
