// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run state of a virtual machine as a reference-counted boxed type.

use std::ffi::c_int;
use std::sync::Arc;

use super::run_state::StatusInfo;
use crate::qmp::Error;
use glib::translate::IntoGlib;

/// The reply to `query-status` (QAPI type `StatusInfo`).
#[derive(Debug, Clone, PartialEq, Eq, glib::SharedBoxed)]
#[shared_boxed_type(name = "SpiceQmp1Status", nullable)]
pub struct Status(Arc<Inner>);

/// The layout of C's `SpiceQmpStatus`: a [`Status`] is a pointer to it.
#[derive(Debug, PartialEq, Eq)]
#[doc(hidden)]
#[repr(C)]
pub struct Inner {
    /// Private in C, and unused: the reference count precedes the structure.
    ref_count: c_int,
    version: c_int,
    running: glib::ffi::gboolean,
    singlestep: glib::ffi::gboolean,
    status: glib::GStringPtr,
}

/// The version of the layout.
const VERSION: c_int = 1;

impl Status {
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "the atomic count is for C, whose structure may go to any thread"
    )]
    fn new(running: bool, singlestep: bool, status: &str) -> Self {
        Self(Arc::new(Inner {
            ref_count: 1,
            version: VERSION,
            running: running.into_glib(),
            singlestep: singlestep.into_glib(),
            status: glib::GString::from(status).into(),
        }))
    }

    /// The status in a reply to `query-status`, for callers of
    /// [`execute_with`](super::QmpPort::execute_with).
    ///
    /// # Errors
    ///
    /// [`PeerError::UnexpectedReply`](crate::PeerError::UnexpectedReply) if it is not a status.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        decode("query-status", json)
    }

    /// Whether the virtual CPUs run.
    pub fn running(&self) -> bool {
        self.0.running != glib::ffi::GFALSE
    }

    /// Whether the virtual CPUs run in single-step mode; QEMU 9.0 and newer do not report it.
    pub fn singlestep(&self) -> bool {
        self.0.singlestep != glib::ffi::GFALSE
    }

    /// QEMU's name of the run state, such as `running`, `paused` or
    /// `guest-panicked` (QAPI enum `RunState`; future versions may add more).
    pub fn status(&self) -> &str {
        self.0.status.as_str()
    }
}

impl From<&StatusInfo> for Status {
    fn from(info: &StatusInfo) -> Self {
        Self::new(info.running, info.singlestep, &info.status)
    }
}

/// Decodes the reply to `query-status`.
pub(super) fn decode(command: &str, reply: &str) -> Result<Status, Error> {
    StatusInfo::decode(command, reply).map(|info| Status::from(&info))
}
