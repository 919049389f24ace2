//! What the simulated models say: plain words without meaning, so that nobody mistakes an answer for one.

/// One token each.
const WORDS: [&str; 40] = [
    "the", "wind", "turns", "over", "a", "quiet", "field", "and", "every", "mill", "along", "its", "edge", "begins", "to",
    "move", "while", "rivers", "carry", "light", "from", "one", "valley", "into", "another", "so", "that", "work", "waits",
    "where", "power", "is", "clean", "near", "noon", "or", "after", "long", "rain", "today",
];

/// The token at `index` of the answer that `seed` stands for, with the space before it.
pub(super) fn token(seed: u64, index: u32) -> String {
    let pick = seed.wrapping_add(u64::from(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let word = WORDS[pick as usize % WORDS.len()];
    let stop = if index % 12 == 11 { "." } else { "" };
    if index == 0 { format!("{word}{stop}") } else { format!(" {word}{stop}") }
}

/// The tokens of a range, joined.
pub(super) fn text(seed: u64, tokens: std::ops::Range<u32>) -> String {
    tokens.map(|index| token(seed, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_however_it_is_cut() {
        assert_eq!(text(5, 0..30), text(5, 0..7) + &text(5, 7..30));
        assert_ne!(text(5, 0..30), text(6, 0..30));
        assert_eq!(text(5, 0..24).split(' ').count(), 24);
    }
}
