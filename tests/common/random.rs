// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reproducible pseudo-random numbers.

use std::cell::Cell;

/// A xorshift generator.
pub struct Random(Cell<u64>);

impl Random {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        // Seeds that are close must not give numbers that are close.
        Self(Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    /// A number below `limit`.
    pub fn below(&self, limit: usize) -> usize {
        let mut number = self.0.get();
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        self.0.set(number);
        usize::try_from(number % limit as u64).unwrap()
    }

    /// A random boolean.
    pub fn coin(&self) -> bool {
        self.below(2) == 0
    }
}
