// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a machine does not run, as a refcounted box.

use std::sync::Arc;

use glib::{GStr, GString};

/// Why a machine does not run: the property `condition` of a
/// [`Machine`](super::Machine).
///
/// It is immutable, and may be used from any thread.
#[derive(Debug, Clone, PartialEq, Eq, glib::SharedBoxed)]
#[shared_boxed_type(name = "SpiceQmp1Condition", nullable)]
pub struct Condition(Arc<Inner>);

/// What a [`Condition`] points to.
#[doc(hidden)]
#[derive(Debug, PartialEq, Eq)]
pub struct Inner {
    code: ConditionCode,
    subject: Option<GString>,
    message: GString,
    detail: Option<GString>,
}

/// The kinds of [`Condition`]s. New ones are appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, glib::Enum)]
#[enum_type(name = "SpiceQmp1ConditionCode")]
#[non_exhaustive]
#[repr(i32)]
pub enum ConditionCode {
    /// A drive could not be written to, as the host has no space left for it.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_DISK_FULL", nick = "disk-full")]
    DiskFull = 0,
    /// A drive could not be read or written.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_DISK_ERROR", nick = "disk-error")]
    DiskError = 1,
    /// The guest's operating system has crashed.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_GUEST_PANICKED",
        nick = "guest-panicked"
    )]
    GuestPanicked = 2,
    /// The guest's watchdog has expired: the guest does not respond.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_WATCHDOG", nick = "watchdog")]
    Watchdog = 3,
    /// QEMU cannot go on with the machine.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR",
        nick = "internal-error"
    )]
    InternalError = 4,
    /// A memory module of the host is defective.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE",
        nick = "memory-failure"
    )]
    MemoryFailure = 5,
    /// The guest has shut itself down.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN",
        nick = "guest-shutdown"
    )]
    GuestShutdown = 6,
    /// QEMU was ended on the host: by a command, a signal or its window.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_HOST_SHUTDOWN",
        nick = "host-shutdown"
    )]
    HostShutdown = 7,
    /// The guest has restarted, and QEMU shuts the machine down instead.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_GUEST_RESET", nick = "guest-reset")]
    GuestReset = 8,
    /// The machine was reset on the host, and QEMU shuts it down instead.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_HOST_RESET", nick = "host-reset")]
    HostReset = 9,
    /// The machine is shut down, by guest or host: that happened before the port was
    /// there.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_SHUTDOWN", nick = "shutdown")]
    Shutdown = 10,
    /// The machine was migrated, and may run elsewhere.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_MIGRATED", nick = "migrated")]
    Migrated = 11,
    /// The connection to QEMU has ended, for no other reason that is known; also where
    /// the program closes the port.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_CONNECTION_LOST",
        nick = "connection-lost"
    )]
    ConnectionLost = 12,
}

/// How bad a [`Condition`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, glib::Enum)]
#[enum_type(name = "SpiceQmp1ConditionSeverity")]
#[repr(i32)]
pub enum ConditionSeverity {
    /// Intended: somebody asked for it.
    #[enum_value(name = "SPICE_QMP_CONDITION_SEVERITY_INFO", nick = "info")]
    Info = 0,
    /// The machine can go on when something was done about it.
    #[enum_value(name = "SPICE_QMP_CONDITION_SEVERITY_WARNING", nick = "warning")]
    Warning = 1,
    /// Something is broken.
    #[enum_value(name = "SPICE_QMP_CONDITION_SEVERITY_ERROR", nick = "error")]
    Error = 2,
}

impl Condition {
    pub(super) fn new(
        code: ConditionCode,
        subject: Option<&str>,
        message: &str,
        detail: Option<&str>,
    ) -> Self {
        Self(Arc::new(Inner {
            code,
            subject: subject.map(text),
            message: text(message),
            detail: detail.map(text),
        }))
    }

    /// What kind it is.
    pub fn code(&self) -> ConditionCode {
        self.0.code
    }

    /// How bad it is.
    pub fn severity(&self) -> ConditionSeverity {
        self.0.code.severity()
    }

    /// What it concerns, where that is one thing and known: the drive, by the name that
    /// `query-block` has as `qdev`. QEMU 7.2 does not say that name over SPICE: there it
    /// is the name of the drive's backend or node.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// What happened, in English: one line without a full stop. Programs that translate
    /// go by [`code`](Self::code) and [`subject`](Self::subject).
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The data of QEMU's event as JSON text, where there was one.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// [`subject`](Self::subject), with the NUL at its end that C needs.
    pub fn subject_gstr(&self) -> Option<&GStr> {
        self.0.subject.as_ref().map(AsRef::as_ref)
    }

    /// [`message`](Self::message), with the NUL at its end that C needs.
    pub fn message_gstr(&self) -> &GStr {
        self.0.message.as_ref()
    }

    /// [`detail`](Self::detail), with the NUL at its end that C needs.
    pub fn detail_gstr(&self) -> Option<&GStr> {
        self.0.detail.as_ref().map(AsRef::as_ref)
    }
}

impl ConditionCode {
    /// All that this version has.
    pub const ALL: &[Self] = &[
        Self::DiskFull,
        Self::DiskError,
        Self::GuestPanicked,
        Self::Watchdog,
        Self::InternalError,
        Self::MemoryFailure,
        Self::GuestShutdown,
        Self::HostShutdown,
        Self::GuestReset,
        Self::HostReset,
        Self::Shutdown,
        Self::Migrated,
        Self::ConnectionLost,
    ];

    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> ConditionSeverity {
        match self {
            Self::GuestShutdown
            | Self::HostShutdown
            | Self::GuestReset
            | Self::HostReset
            | Self::Shutdown
            | Self::Migrated => ConditionSeverity::Info,
            Self::DiskFull => ConditionSeverity::Warning,
            Self::DiskError
            | Self::GuestPanicked
            | Self::Watchdog
            | Self::InternalError
            | Self::MemoryFailure
            | Self::ConnectionLost => ConditionSeverity::Error,
        }
    }
}

/// A string for C. Those of a peer may have a NUL inside.
fn text(text: &str) -> GString {
    if text.contains('\0') {
        return text.replace('\0', "\u{fffd}").into();
    }
    text.into()
}
