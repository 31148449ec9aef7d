//! The properties that the port keeps current by itself: run state and version.

use glib::subclass::prelude::*;
use serde_json::value::RawValue;

use super::imp::QmpPort;
use super::turn::Token;
use super::{log, status};
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
            | "SHUTDOWN"
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

impl QmpPort {
    /// The state of the port is another one.
    pub(super) fn update_live(&self, state: State) {
        match state {
            State::Ready => {
                let greeted = self.session.borrow().greeting().map(|g| g.version.clone());
                if greeted.is_some() {
                    self.set_version(greeted);
                } else {
                    self.execute_own("query-version", Token::Version);
                }
                self.obj().notify_capabilities();
                self.refresh_status();
            }
            State::Closed | State::Failed => {
                self.set_version(None);
                self.obj().notify_capabilities();
                self.set_status(None);
            }
            State::Connecting | State::Greeting | State::Negotiating => {}
        }
    }

    /// Asks for the run state, once at a time.
    pub(super) fn refresh_status(&self) {
        if self.session.borrow().state() != State::Ready {
            return;
        }
        if self.status_asked.replace(true) {
            self.status_stale.set(true);
            return;
        }
        self.execute_own("query-status", Token::Status);
    }

    fn execute_own(&self, command: &str, token: Token) {
        self.own_calls.set(self.own_calls.get() + 1);
        self.session
            .borrow_mut()
            .execute(command, None, Band::In, token);
    }

    pub(super) fn got_status(&self, reply: Result<Box<RawValue>, Error>) {
        self.own_calls.set(self.own_calls.get() - 1);
        self.status_asked.set(false);
        match reply.and_then(|reply| status::decode("query-status", &reply)) {
            Ok(status) => self.set_status(Some(status)),
            Err(error) => log::debug(|| format!("the run state is unknown: {error}")),
        }
    }

    pub(super) fn got_version(&self, reply: Result<Box<RawValue>, Error>) {
        self.own_calls.set(self.own_calls.get() - 1);
        if let Ok(reply) = reply {
            let version = serde_json::from_str::<Version>(reply.get());
            self.set_version(version.ok());
        }
    }

    fn set_status(&self, status: Option<super::Status>) {
        if *self.status.borrow() != status {
            let old = self.status.replace(status);
            drop(old);
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
