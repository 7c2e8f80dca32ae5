//! Finds bytes, eight at a time.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Eight bytes of a text.
#[derive(Clone, Copy)]
pub(super) struct Word(u64);

/// The high bits of bytes that were found. Only the lowest one is exact: a byte above it may be
/// marked though it differs.
#[derive(Clone, Copy)]
pub(super) struct Found(u64);

impl Word {
    /// Bytes that equal this one.
    #[inline]
    pub(super) fn equals(self, byte: u8) -> Found {
        let differs = self.0 ^ (ONES * u64::from(byte));
        Found(differs.wrapping_sub(ONES) & !differs & HIGHS)
    }

    /// Bytes below this one, which is at most 128.
    #[inline]
    pub(super) fn below(self, byte: u8) -> Found {
        Found(self.0.wrapping_sub(ONES * u64::from(byte)) & !self.0 & HIGHS)
    }
}

impl std::ops::BitOr for Found {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The place of the first byte from `from` on that `search` finds; the text's length if there is
/// none.
#[inline]
pub(super) fn find(text: &[u8], from: usize, search: impl Fn(Word) -> Found) -> usize {
    let mut at = from;
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let Found(found) = search(Word(u64::from_le_bytes(*chunk)));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    // One byte at a time: the others are filled with it, so that any mark means it.
    while let Some(byte) = text.get(at) {
        let Found(found) = search(Word(ONES * u64::from(*byte)));
        if found != 0 {
            return at;
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn finds_the_byte_that_a_search_byte_by_byte_finds(
            text in prop::collection::vec(prop_oneof![0_u8..=0x22, any::<u8>(), Just(b'\\')], 0..40),
            from in 0..40_usize,
        ) {
            let from = from.min(text.len());
            let wanted = |byte: u8| byte == b'"' || byte == b'\\' || byte < b' ';
            let expected = text[from..].iter().position(|byte| wanted(*byte));
            let found = find(&text, from, |word| {
                word.equals(b'"') | word.equals(b'\\') | word.below(b' ')
            });
            prop_assert_eq!(found, expected.map_or(text.len(), |at| from + at));
        }
    }
}
