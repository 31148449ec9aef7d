// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a machine is not running, as a reference-counted boxed type.

use std::sync::Arc;

use glib::{GStr, GString};

use crate::qmp::for_c;

/// Why a machine is not running: the property `condition` of a
/// [`Machine`](super::Machine).
///
/// It is immutable, and may be used from any thread.
///
/// ```no_run
/// # fn f(machine: spice_qmp::Machine) {
/// use spice_qmp::ConditionCode;
///
/// machine.connect_condition_notify(|machine| match machine.condition() {
///     None => println!("it runs, or is paused"),
///     Some(condition) if condition.code() == ConditionCode::DiskFull => {
///         println!("no space is left for {}", condition.subject().unwrap_or("a drive"));
///     }
///     Some(condition) => println!("{}", condition.message()),
/// });
/// # }
/// ```
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
    /// A drive cannot be written to, because the host has no space left for it.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_DISK_FULL", nick = "disk-full")]
    DiskFull = 0,
    /// A drive cannot be read or written.
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
    /// QEMU cannot continue to run the machine.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR",
        nick = "internal-error"
    )]
    InternalError = 4,
    /// The host's memory is defective.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE",
        nick = "memory-failure"
    )]
    MemoryFailure = 5,
    /// The guest has shut down.
    #[enum_value(
        name = "SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN",
        nick = "guest-shutdown"
    )]
    GuestShutdown = 6,
    /// QEMU was quit on the host: by a command, a signal or its window.
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
    /// The machine has shut down before the port was connected; it is not known whether the
    /// guest or the host did that.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_SHUTDOWN", nick = "shutdown")]
    Shutdown = 10,
    /// The machine was migrated, and may be running elsewhere.
    #[enum_value(name = "SPICE_QMP_CONDITION_CODE_MIGRATED", nick = "migrated")]
    Migrated = 11,
    /// The connection to QEMU has ended, for no other known reason. Not if the program closes
    /// the port: that changes no condition.
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
    /// It was intended.
    #[enum_value(name = "SPICE_QMP_CONDITION_SEVERITY_INFO", nick = "info")]
    Info = 0,
    /// The machine can continue once the cause has been removed.
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

    /// The kind of the condition.
    pub fn code(&self) -> ConditionCode {
        self.0.code
    }

    /// The severity of the condition.
    pub fn severity(&self) -> ConditionSeverity {
        self.0.code.severity()
    }

    /// The one thing that it concerns, if known: the drive, by its name in the `qdev` member
    /// of `query-block`. QEMU 7.2 does not report that name over SPICE: then it is the name of
    /// the drive's backend or node.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// What happened, in English: one line without a full stop. Programs that translate
    /// use [`code`](Self::code) and [`subject`](Self::subject) instead.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The data of QEMU's event as JSON text, if there was an event.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// [`subject`](Self::subject), NUL-terminated for C.
    pub fn subject_gstr(&self) -> Option<&GStr> {
        self.0.subject.as_ref().map(AsRef::as_ref)
    }

    /// [`message`](Self::message), NUL-terminated for C.
    pub fn message_gstr(&self) -> &GStr {
        self.0.message.as_ref()
    }

    /// [`detail`](Self::detail), NUL-terminated for C.
    pub fn detail_gstr(&self) -> Option<&GStr> {
        self.0.detail.as_ref().map(AsRef::as_ref)
    }
}

impl ConditionCode {
    /// All codes of this version.
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

    /// The severity of a condition with this code.
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

/// A peer's string, for C.
fn text(text: &str) -> GString {
    for_c(text).into()
}
