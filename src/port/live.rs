//! The properties that the port keeps current by itself: run state and version.

use std::borrow::Cow;

use glib::subclass::prelude::*;
use serde::Deserialize;

use super::imp::QmpPort;
use super::turn::Owner;
use super::{CONNECT_TIMEOUT, Event, Status, status};
use crate::qmp::{Band, Error, State, Version};

/// Whether an event of this name can change what `query-status` says.
pub(super) fn changes_run_state(name: &str) -> bool {
    matches!(
        name,
        "STOP"
            | "RESUME"
            | "SUSPEND"
            | "SUSPEND_DISK"
            | "WAKEUP"
            | "RESET"
            | "POWERDOWN"
            | "GUEST_PANICKED"
            | "GUEST_CRASHLOADED"
            | "GUEST_PVSHUTDOWN"
            | "WATCHDOG"
            | "BLOCK_IO_ERROR"
            | "MIGRATION"
            | "COLO_EXIT"
    )
}

/// Whether QEMU mostly exits after an event of this name. One that exits with a
/// question under way may crash, so it is asked a little later, if it is still there.
pub(super) fn may_end_qemu(name: &str) -> bool {
    name == "SHUTDOWN"
}

/// The run state that an event tells of, where that is sure.
fn run_state_in(event: &Event) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Panic<'a> {
        action: Cow<'a, str>,
    }
    match event.name() {
        "SHUTDOWN" => Some("shutdown"),
        "GUEST_PANICKED" => {
            let panic: Panic<'_> = event.decode().ok()?;
            (panic.action == "pause").then_some("guest-panicked")
        }
        _ => None,
    }
}

/// Whether [`QmpPort::note_run_state`] wants events of this name.
pub(super) fn tells_run_state(name: &str) -> bool {
    matches!(name, "SHUTDOWN" | "GUEST_PANICKED")
}

impl QmpPort {
    /// The state of the port is another one.
    pub(super) fn update_live(&self, state: State) {
        match state {
            State::Ready => {
                let greeted = self.session.borrow().greeting().map(|g| g.version.clone());
                if greeted.is_some() {
                    self.set_version(greeted);
                } else {
                    self.execute_own("query-version", Owner::Version);
                }
                self.obj().notify_capabilities();
                self.status_stale.set(true);
            }
            State::Closed | State::Failed => {
                self.set_version(None);
                self.obj().notify_capabilities();
                self.set_status(None);
            }
            State::Connecting | State::Greeting | State::Negotiating => {}
        }
    }

    /// Whether the run state may have changed and can be asked for: one question
    /// is under way at a time.
    pub(super) fn wants_status(&self) -> bool {
        self.status_stale.get() && !self.status_asked.get()
    }

    /// Asks for the run state.
    pub(super) fn refresh_status(&self) {
        self.status_stale.set(false);
        if self.session.borrow().state() == State::Ready {
            self.status_asked.set(true);
            self.execute_own("query-status", Owner::Status);
        }
    }

    fn execute_own(&self, command: &str, owner: Owner) {
        self.own_calls.set(self.own_calls.get() + 1);
        // A reply that is lost must not keep the next question back for ever.
        let timeout = self.default_timeout().unwrap_or(CONNECT_TIMEOUT);
        self.issue(command, None, Band::In, owner, Some(timeout));
    }

    pub(super) fn got_status(&self, reply: Result<String, Error>) {
        self.status_asked.set(false);
        match reply.and_then(|reply| status::decode("query-status", &reply)) {
            Ok(status) => self.set_status(Some(status)),
            // It is not known, and this is why.
            Err(error @ (Error::Command { .. } | Error::Peer(_))) => {
                self.set_last_error(Some(error));
            }
            Err(_) => {}
        }
    }

    pub(super) fn got_version(&self, reply: Result<String, Error>) {
        if let Ok(reply) = reply {
            let version = serde_json::from_str::<Version>(&reply).ok();
            // What becomes a C string must not hold a NUL.
            self.set_version(version.filter(|version| !version.package.contains('\0')));
        }
    }

    /// Takes over what an event says of the run state. QEMU's answer may never
    /// come: it mutes SPICE ports while the guest has panicked or is shut down.
    pub(super) fn note_run_state(&self, event: &Event) {
        if let Some(state) = run_state_in(event) {
            self.set_status(Some(Status::stopped(state)));
            // Who is notified may want the event, too.
            self.forget_audience();
        }
    }

    fn set_status(&self, status: Option<Status>) {
        if *self.status.borrow() != status {
            self.status.replace(status);
            self.obj().notify_status();
        }
    }

    fn set_version(&self, version: Option<Version>) {
        if *self.qemu.borrow() != version {
            self.qemu.replace(version);
            self.obj().notify_version();
            self.obj().notify_package();
        }
    }
}
