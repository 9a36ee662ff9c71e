//! Numbers as a scenario writes them: seconds or a span of them, milliseconds, shares of one.
//!
//! Owns [`Span`], [`Milliseconds`] and [`Fraction`]. Main invariant: what is kept is an integer, so that two runs
//! of one scenario can never differ by a rounding. Refuses spans that run backwards and shares above one.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

/// A time that something takes: drawn between two ends. Written in seconds: `12`, `0.5` or `[10, 60]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The least, in milliseconds.
    pub low_ms: u64,
    /// The most, in milliseconds.
    pub high_ms: u64,
}

impl Span {
    /// Between two numbers of seconds.
    #[must_use]
    pub const fn seconds(low: u64, high: u64) -> Self {
        Self { low_ms: low * 1_000, high_ms: high * 1_000 }
    }

    /// In the middle of it, in milliseconds.
    #[must_use]
    pub const fn mean_ms(self) -> u64 {
        self.low_ms.midpoint(self.high_ms)
    }
}

/// A way that a message takes: drawn between two ends. Written in milliseconds: `2` or `[1, 40]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds {
    /// The least.
    pub low: u64,
    /// The most.
    pub high: u64,
}

/// A share of one, or a probability. Written as `0.25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Fraction {
    per_million: u32,
}

impl Fraction {
    /// Nothing.
    pub const ZERO: Self = Self { per_million: 0 };
    /// All.
    pub const ONE: Self = Self { per_million: 1_000_000 };

    /// So many of a million; more than a million is all.
    #[must_use]
    pub const fn per_million(millionths: u32) -> Self {
        Self { per_million: if millionths > 1_000_000 { 1_000_000 } else { millionths } }
    }

    /// How many of a million.
    #[must_use]
    pub const fn in_million(self) -> u64 {
        self.per_million as u64
    }

    /// This share of a number, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        u64::try_from(u128::from(whole) * u128::from(self.per_million) / 1_000_000).unwrap_or(whole)
    }
}

/// Longest span, in seconds: a month and a day, longer than any plan.
const SPAN_S_MAX: f64 = 32.0 * 86_400.0;

/// The two ends of a span as they are written.
struct Ends(f64, f64);

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrTwo;
        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = Ends;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or the least and the most as in [10, 60]")
            }
            #[expect(clippy::cast_precision_loss, reason = "spans are far below 2^52")]
            fn visit_i64<E: Error>(self, number: i64) -> Result<Ends, E> {
                self.visit_f64(number as f64)
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Ends, E> {
                Ok(Ends(number, number))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut ends: A) -> Result<Ends, A::Error> {
                let missing = || Error::custom("write the least and the most, as in [10, 60]");
                let low = ends.next_element::<f64>()?.ok_or_else(missing)?;
                let high = ends.next_element::<f64>()?.ok_or_else(missing)?;
                if ends.next_element::<f64>()?.is_some() {
                    return Err(missing());
                }
                Ok(Ends(low, high))
            }
        }
        deserializer.deserialize_any(OneOrTwo)
    }
}

impl Ends {
    /// Both ends as integers, of `scale` a unit.
    fn scaled<E: Error>(&self, scale: f64) -> Result<(u64, u64), E> {
        let Self(low, high) = *self;
        if !(low >= 0.0 && high <= SPAN_S_MAX * 1_000.0 / scale) {
            return Err(E::custom("out of range: write 0 up to 32 days"));
        }
        if low > high {
            return Err(E::custom(format!("the least ({low}) is above the most ({high}): swap them")));
        }
        let whole = |end: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within range by now"
            )]
            let end = (end * scale).round() as u64;
            end
        };
        Ok((whole(low), whole(high)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low_ms, high_ms) = Ends::deserialize(deserializer)?.scaled(1_000.0)?;
        Ok(Self { low_ms, high_ms })
    }
}

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low, high) = Ends::deserialize(deserializer)?.scaled(1.0)?;
        Ok(Self { low, high })
    }
}

impl Serialize for Span {
    #[expect(clippy::cast_precision_loss, reason = "spans are far below 2^52")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ends = serializer.serialize_seq(Some(2))?;
        ends.serialize_element(&(self.low_ms as f64 / 1_000.0))?;
        ends.serialize_element(&(self.high_ms as f64 / 1_000.0))?;
        ends.end()
    }
}

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.low, self.high].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if !(0.0..=1.0).contains(&number) {
            return Err(Error::custom(format!(
                "{number} is no share of one: write 0.0 to 1.0 (5 % is 0.05)"
            )));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within range by now")]
        let per_million = (number * 1e6).round() as u32;
        Ok(Self { per_million })
    }
}

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.per_million) / 1e6)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.per_million) / 1e4)
    }
}
