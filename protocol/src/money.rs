//! Money as whole picodollars (1e-12 US dollars): a token of the cheapest model costs some ten thousand of them, and a `u64`
//! holds 18 million dollars. Nothing is rounded before it is shown.

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// An amount in picodollars. Sums saturate.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Pico(pub u64);

const DOLLAR: u64 = 1_000_000_000_000;

impl Pico {
    /// Reads a decimal number of dollars, such as `5.00`. `None` for anything else, and beyond what fits.
    pub fn parse(dollars: &str) -> Option<Self> {
        let (whole, part) = dollars.split_once('.').unwrap_or((dollars, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > 12 || !digits(whole) || !digits(part) {
            return None;
        }
        let part: u64 = format!("{part:0<12}").parse().ok()?;
        whole
            .parse::<u64>()
            .ok()?
            .checked_mul(DOLLAR)?
            .checked_add(part)
            .map(Self)
    }

    /// Of a number of dollars, as JSON has it, rounded up. `None` for a negative one, and beyond what fits.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a bound, far beyond any price")]
        let most = (u64::MAX / DOLLAR) as f64;
        if !(0.0..most).contains(&dollars) {
            return None;
        }
        // Through text, so that 3e-06 is 3,000,000 and not what a binary fraction makes of it.
        let text = format!("{dollars:.12}");
        Self::parse(&text)
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// So many times as much.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl Sum for Pico {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Self::plus)
    }
}

impl fmt::Display for Pico {
    /// Dollars with four decimals, rounded up: `0.0001` for what is less.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.div_ceil(DOLLAR / 10_000);
        write!(formatter, "{}.{:04}", parts / 10_000, parts % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_and_shown() {
        let cases = [
            ("5", Some(5 * DOLLAR), "5.0000"),
            ("5.00", Some(5 * DOLLAR), "5.0000"),
            ("0.000003", Some(3_000_000), "0.0001"),
            ("12.3456", Some(12_345_600_000_000), "12.3456"),
        ];
        for (text, expected, shown) in cases {
            let read = Pico::parse(text);
            assert_eq!(read.map(|pico| pico.0), expected, "{text}");
            assert_eq!(read.unwrap().to_string(), shown);
        }
        for wrong in ["", ".5", "-1", "1e3", "1,5", "99999999999", "0.0000000000001"] {
            assert_eq!(Pico::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn prices_come_as_binary_fractions() {
        assert_eq!(Pico::from_dollars(3e-6), Some(Pico(3_000_000)));
        assert_eq!(Pico::from_dollars(1.5e-7), Some(Pico(150_000)));
        assert_eq!(Pico::from_dollars(0.0), Some(Pico(0)));
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e30] {
            assert_eq!(Pico::from_dollars(wrong), None, "{wrong}");
        }
    }
}
