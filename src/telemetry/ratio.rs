//! Ratio: a share of all requests, chosen by their identifiers.

/// A share of all requests, from none to all.
///
/// ```
/// use oneport::telemetry::Ratio;
///
/// let half = Ratio::new(0.5).unwrap();
/// assert!(half.includes(u64::MAX / 4));
/// assert!(!half.includes(u64::MAX / 4 * 3));
/// assert!(Ratio::ALL.includes(u64::MAX));
/// assert_eq!(Ratio::new(1.5), None);
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ratio(
    /// The first number that is not included; `u64::MAX` includes all.
    u64,
);

impl Ratio {
    /// All requests.
    pub const ALL: Self = Self(u64::MAX);

    /// Creates a ratio from 0 to 1; `None` for another number.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number from 0 to 2^64, and the cast saturates"
    )]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&share)
            .then_some(Self((share * u64::MAX as f64) as u64))
    }

    /// Returns whether a random number is among this share of all numbers.
    #[must_use]
    pub const fn includes(self, random: u64) -> bool {
        random < self.0 || self.0 == u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_random_numbers_is_the_ratio() {
        let mut random = fastrand::Rng::with_seed(7);
        for share in [0.0, 0.001, 0.25, 0.9, 1.0] {
            let ratio = Ratio::new(share).unwrap();
            let hits = (0..100_000).filter(|_| ratio.includes(random.u64(..)));
            let found = f64::from(u32::try_from(hits.count()).unwrap()) / 100_000.0;
            assert!((found - share).abs() < 0.01, "{share}: {found}");
        }
        assert!(!Ratio::new(0.0).unwrap().includes(0));
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::new(wrong), None);
        }
    }
}
