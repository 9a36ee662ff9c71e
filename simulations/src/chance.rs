//! Keyed chance: every draw is named by what it is for.
//!
//! Owns [`Chance`] and [`Purpose`]. Main invariant: a draw depends on the seed, the entity, the purpose and how
//! many draws that entity made for that purpose, so that a fault or a server taken out moves no other draw.

/// What a draw is for. Each entity counts its draws for each purpose by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// Whether a message is lost.
    Loss,
    /// Whether it comes twice.
    Duplication,
    /// How much later the second time.
    DuplicateLag,
    /// Whether it is late.
    Delay,
    /// How late.
    LongWay,
    /// How long a message is on its way.
    Way,
    /// Whether something is handed in twice on purpose.
    DuplicateCheck,
    /// Whether a probe fails.
    Flap,
    /// How long a round of probes takes.
    Probe,
    /// How long a hook takes.
    Hook,
    /// How long the root half takes to answer.
    ApplierAnswer,
    /// How long staging takes.
    Stage,
    /// How long a restart takes.
    Restart,
    /// How long the new version takes until its first probe can pass.
    Settle,
    /// How long another step takes.
    Step,
    /// Which half is there first after a power cut.
    NodeFirst,
    /// The other half.
    ApplierFirst,
}

/// How many purposes there are.
const PURPOSES: usize = Purpose::ApplierFirst as usize + 1;

/// Draws of one run.
#[derive(Debug)]
pub(crate) struct Chance {
    seed: u64,
    drawn: Vec<[u32; PURPOSES]>,
}

impl Chance {
    /// Draws for so many entities: the servers by their number, and after them whatever else draws.
    pub(crate) fn new(seed: u64, entities: usize) -> Self {
        Self { seed, drawn: vec![[0; PURPOSES]; entities] }
    }

    /// A number below `bound` (0 for a bound of 0).
    pub(crate) fn below(&mut self, bound: u64, entity: usize, purpose: Purpose) -> u64 {
        let count = &mut self.drawn[entity][purpose as usize];
        *count = count.wrapping_add(1);
        let drawn = keyed(self.seed, entity as u64, purpose as u64, u64::from(*count));
        u64::try_from((u128::from(drawn) * u128::from(bound)) >> 64).unwrap_or(u64::MAX)
    }

    /// Whether something that happens `in_10_000` times of ten thousand happens now. Never draws for zero.
    pub(crate) fn happens(&mut self, in_10_000: u64, entity: usize, purpose: Purpose) -> bool {
        in_10_000 > 0 && self.below(10_000, entity, purpose) < in_10_000
    }

    /// A number from `low` up to, but without, `high`; `low` where there is nothing between.
    pub(crate) fn between(&mut self, low: u64, high: u64, entity: usize, purpose: Purpose) -> u64 {
        if high <= low { low } else { low + self.below(high - low, entity, purpose) }
    }
}

/// A number that looks random, from four words. Each word is folded in by an odd constant and the finaliser of
/// SplitMix64, which is a bijection: two keys that differ in one word never meet by that word alone. It costs a
/// few nanoseconds where BLAKE3 costs a hundred, and nobody here tries to guess it.
pub(crate) fn keyed(seed: u64, entity: u64, purpose: u64, count: u64) -> u64 {
    let mut mixed = finish(seed);
    mixed = finish(mixed ^ entity.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = finish(mixed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
    finish(mixed ^ count.wrapping_mul(0xa076_1d64_78bd_642f))
}

fn finish(word: u64) -> u64 {
    let mut word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_follows_from_its_key_and_from_no_other_draw() {
        let (mut alone, mut among) = (Chance::new(7, 4), Chance::new(7, 4));
        let wanted: Vec<u64> = (0..20).map(|_| alone.below(1_000, 2, Purpose::Way)).collect();
        let found: Vec<u64> = (0..20)
            .map(|number| {
                among.below(9, number % 2, Purpose::Way);
                among.below(9, 2, Purpose::Loss);
                among.below(1_000, 2, Purpose::Way)
            })
            .collect();
        assert_eq!(wanted, found);
    }

    #[test]
    fn draws_are_even_over_entities_and_over_counts() {
        for key in [|n: u64| keyed(1, n, 3, 1), |n: u64| keyed(1, 1, 3, n), |n: u64| keyed(n, 1, 3, 1)] {
            let mut counts = [0u32; 16];
            (0..16_000).for_each(|number| counts[usize::try_from(key(number) >> 60).unwrap()] += 1);
            assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        }
    }
}
