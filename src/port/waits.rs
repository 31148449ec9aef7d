// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program's waits on a port: that it is ready, that its run state is known,
//! that it has closed. Data only.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::timers::Deadline;
use crate::qmp::{CallId, Error};

/// Called once, when a wait ends.
pub(super) type WaitCallback = Box<dyn FnOnce(Result<(), Error>)>;

/// The result of a wait, and the callback for it.
pub(super) type Ended = (WaitCallback, Result<(), Error>);

/// Identifies a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitId(u64);

/// What a deadline ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Call(CallId),
    Wait(WaitId),
}

/// What a wait waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// Commands may be executed.
    Ready,
    /// Ready, and the run state is known or the server refused to report it.
    Status,
    /// QEMU may be disconnected, because it owes no answer.
    #[cfg_attr(not(feature = "spice"), allow(dead_code))]
    Settled,
    /// The run state has one of these names.
    RunState(Vec<String>),
    /// The connection ends.
    Lost,
}

/// A wait for the port to become ready.
pub(super) struct Wait {
    pub(super) what: WaitFor,
    /// How many times the connection had been lost when the wait began.
    pub(super) closures: u64,
    pub(super) deadline: Deadline,
    pub(super) callback: WaitCallback,
}

/// A close, which waits for what QEMU owes.
pub(super) struct Close {
    pub(super) id: WaitId,
    pub(super) deadline: Deadline,
    pub(super) callback: WaitCallback,
}

/// All waits.
#[derive(Default)]
pub(super) struct Waits {
    next_id: Cell<u64>,
    /// In the order in which they began.
    ready: RefCell<BTreeMap<WaitId, Wait>>,
    closes: RefCell<Vec<Close>>,
}

impl Waits {
    pub(super) fn take_id(&self) -> WaitId {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        WaitId(id)
    }

    pub(super) fn add(&self, id: WaitId, wait: Wait) {
        self.ready.borrow_mut().insert(id, wait);
    }

    pub(super) fn add_close(&self, close: Close) {
        self.closes.borrow_mut().push(close);
    }

    /// Whether anybody waits for the port to become ready.
    pub(super) fn any_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Whether the program is closing the port.
    pub(super) fn any_close(&self) -> bool {
        !self.closes.borrow().is_empty()
    }

    /// Whether the program waits for anything.
    pub(super) fn any(&self) -> bool {
        self.any_ready() || self.any_close()
    }

    /// Removes the waits that have ended, according to `outcome`.
    pub(super) fn take_ended(
        &self,
        outcome: impl Fn(&Wait) -> Option<Result<(), Error>>,
    ) -> Vec<(Wait, Result<(), Error>)> {
        let ended = |(_, wait): (WaitId, Wait)| {
            let result = outcome(&wait)?;
            Some((wait, result))
        };
        let mut waits = self.ready.borrow_mut();
        let is_ended = |_: &WaitId, wait: &mut Wait| outcome(wait).is_some();
        waits.extract_if(.., is_ended).filter_map(ended).collect()
    }

    /// Removes a wait.
    pub(super) fn take(&self, id: WaitId) -> Option<Wait> {
        self.ready.borrow_mut().remove(&id)
    }

    /// Removes a close.
    pub(super) fn take_close(&self, id: WaitId) -> Option<Close> {
        let mut closes = self.closes.borrow_mut();
        let at = closes.iter().position(|close| close.id == id)?;
        Some(closes.remove(at))
    }

    /// Removes all closes, in order.
    pub(super) fn take_closes(&self) -> Vec<Close> {
        self.closes.take()
    }

    /// Removes the first close.
    pub(super) fn take_first_close(&self) -> Option<Close> {
        let mut closes = self.closes.borrow_mut();
        (!closes.is_empty()).then(|| closes.remove(0))
    }

    pub(super) fn closes(&self) -> usize {
        self.closes.borrow().len()
    }

    pub(super) fn has_close(&self, id: WaitId) -> bool {
        self.closes.borrow().iter().any(|close| close.id == id)
    }
}
