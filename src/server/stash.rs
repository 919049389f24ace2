//! Bytes that were read and may not be seen yet.

use tokio::io::ReadBuf;

/// Bytes held back, the first of them perhaps good to go. Empty it has no memory.
#[derive(Debug, Default)]
pub(super) struct Stash {
    bytes: Vec<u8>,
    given: usize,
    /// Up to where they are good.
    good: usize,
    /// Whether something is new since they were last looked at.
    news: bool,
}

impl Stash {
    /// Bytes that nobody has looked at.
    pub(super) const fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, given: 0, good: 0, news: true }
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len() - self.given
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is not known to be good.
    pub(super) fn doubtful(&self) -> &[u8] {
        self.bytes.get(self.good..).unwrap_or_default()
    }

    /// Adds bytes; `news` says whether looking at them, or again at what is there, could change anything.
    pub(super) fn keep(&mut self, bytes: &[u8], news: bool) {
        self.bytes.extend_from_slice(bytes);
        self.news = news;
    }

    /// Whether there is something new; asking makes it old.
    pub(super) const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.news, false)
    }

    /// So many more are good; `news` says whether there is something to see in the others.
    pub(super) const fn approve(&mut self, count: usize, news: bool) {
        self.good += count;
        self.news = news && self.good < self.bytes.len();
    }

    /// Forgets what is not known to be good.
    pub(super) fn forget_doubtful(&mut self) {
        self.bytes.truncate(self.good);
        self.news = false;
    }

    /// Gives of the good ones as many as there is room for; false when there are none.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = self.bytes.get(self.given..self.good).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.given += count;
        if self.is_empty() {
            *self = Self::default();
        } else if self.given == self.good {
            self.bytes.drain(..self.given);
            (self.given, self.good) = (0, 0);
        }
        true
    }

    /// Gives whatever there is, good or not.
    pub(super) fn give_any(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        self.good = self.bytes.len();
        self.give(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(stash: &mut Stash, room: usize) -> Vec<u8> {
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        assert_eq!(stash.give(&mut buffer), !buffer.filled().is_empty());
        buffer.filled().to_vec()
    }

    #[test]
    fn only_what_is_good_goes_and_in_order() {
        let mut stash = Stash::default();
        stash.keep(b"abcdef", true);
        assert!(stash.take_news() && !stash.take_news());
        assert_eq!(given(&mut stash, 9), b"");
        stash.approve(4, true);
        assert_eq!((given(&mut stash, 3), stash.doubtful()), (b"abc".to_vec(), b"ef".as_slice()));
        assert_eq!((given(&mut stash, 3), given(&mut stash, 3)), (b"d".to_vec(), Vec::new()));
        stash.keep(b"g", true);
        assert_eq!((stash.doubtful(), stash.len()), (b"efg".as_slice(), 3));
        stash.approve(3, true);
        assert!(!stash.take_news(), "nothing is left to be looked at");
        assert_eq!(given(&mut stash, 9), b"efg");
        assert!(stash.is_empty() && stash.bytes.capacity() == 0);
    }
}
