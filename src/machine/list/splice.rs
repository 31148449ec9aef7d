// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns one list into another in small steps: data only.

use std::collections::HashMap;
use std::hash::Hash;

/// A step that removes items at a position and adds others there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Splice {
    pub(super) at: usize,
    pub(super) removed: usize,
    pub(super) added: usize,
}

impl Splice {
    /// The first step from `now` to `then`; neither contains duplicates. The items to add
    /// are in `then`, at the same position. `None` if both are the same.
    ///
    /// Items in both lists stay where they are, unless the order changes.
    pub(super) fn first<T: Eq + Hash>(now: &[T], then: &[T]) -> Option<Self> {
        let same = now.iter().zip(then).take_while(|(a, b)| a == b);
        let at = same.count();
        let (now, then) = (&now[at..], &then[at..]);
        let (in_now, in_then) = (places(now), places(then));
        let removed = now.iter().take_while(|it| !in_then.contains_key(it));
        let added = then.iter().take_while(|it| !in_now.contains_key(it));
        let (removed, added) = (removed.count(), added.count());
        if removed + added > 0 {
            return Some(Self { at, removed, added });
        }
        // Both are in the other list, too: the one that has the longer way to go is removed,
        // and is added later.
        let here = in_then.get(now.first()?)?;
        let there = in_now.get(then.first()?)?;
        Some(Self {
            at: if here < there { at + there } else { at },
            removed: 1,
            added: 0,
        })
    }

    /// Applies the step on the way to `then`, and returns the removed items.
    pub(super) fn apply<T: Clone>(self, now: &mut Vec<T>, then: &[T]) -> Vec<T> {
        let Self { at, removed, added } = self;
        let new = then.iter().skip(at).take(added).cloned();
        now.splice(at..at + removed, new).collect()
    }
}

fn places<T: Eq + Hash>(list: &[T]) -> HashMap<&T, usize> {
    list.iter().zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All steps from one list to another.
    fn steps(now: &[u8], then: &[u8]) -> Vec<Splice> {
        let mut list = now.to_vec();
        let mut steps = Vec::new();
        while let Some(step) = Splice::first(&list, then) {
            assert_eq!(step.apply(&mut list, then).len(), step.removed);
            steps.push(step);
            assert!(steps.len() <= now.len() + then.len(), "{steps:?}");
        }
        assert_eq!(list, then);
        steps
    }

    fn step(at: usize, removed: usize, added: usize) -> Splice {
        Splice { at, removed, added }
    }

    #[test]
    fn items_in_both_lists_are_not_touched() {
        assert_eq!(steps(b"", b""), []);
        assert_eq!(steps(b"abc", b"abc"), []);
        assert_eq!(steps(b"", b"abc"), [step(0, 0, 3)]);
        assert_eq!(steps(b"abc", b""), [step(0, 3, 0)]);
        assert_eq!(steps(b"abc", b"abcd"), [step(3, 0, 1)]);
        assert_eq!(steps(b"abcd", b"acd"), [step(1, 1, 0)]);
        assert_eq!(steps(b"abcd", b"axyd"), [step(1, 2, 2)]);
        assert_eq!(steps(b"abcde", b"bcxe"), [step(0, 1, 0), step(2, 1, 1)]);
    }

    #[test]
    fn a_moving_item_does_not_touch_the_others() {
        assert_eq!(steps(b"abcd", b"bcda"), [step(0, 1, 0), step(3, 0, 1)]);
        assert_eq!(steps(b"abcd", b"dabc"), [step(3, 1, 0), step(0, 0, 1)]);
    }

    proptest! {
        #[test]
        fn any_list_turns_into_any_other(
            pair in proptest::collection::hash_set(any::<u8>(), 0..20).prop_flat_map(|all| {
                let all: Vec<u8> = all.into_iter().collect();
                let half = || proptest::sample::subsequence(all.clone(), 0..=all.len()).prop_shuffle();
                (half(), half())
            })
        ) {
            let (now, then) = pair;
            let steps = steps(&now, &then);
            let kept = now.iter().filter(|it| then.contains(it)).count();
            let removed: usize = steps.iter().map(|step| step.removed).sum();
            prop_assert!(removed <= now.len(), "nothing is removed twice: {:?}", steps);
            if kept == 0 && !now.is_empty() && !then.is_empty() {
                prop_assert_eq!(steps.len(), 1);
            }
        }
    }
}
