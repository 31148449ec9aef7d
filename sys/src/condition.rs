// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpCondition`

use std::ffi::c_char;
use std::ptr::{null, null_mut};

use glib::ffi::GType;
use glib::prelude::*;
use glib::translate::{Borrowed, FromGlibPtrBorrow, GlibPtrDefault, IntoGlib};
use spice_qmp::{Condition, ConditionCode, ConditionSeverity};

use crate::guard::{g_return_if_fail, g_return_val_if_fail, no_panic};

/// SpiceQmpConditionCode:
/// @SPICE_QMP_CONDITION_CODE_DISK_FULL: a drive cannot be written to, because the host
///   has no space left for it
/// @SPICE_QMP_CONDITION_CODE_DISK_ERROR: a drive cannot be read or written
/// @SPICE_QMP_CONDITION_CODE_GUEST_PANICKED: the guest's operating system has crashed
/// @SPICE_QMP_CONDITION_CODE_WATCHDOG: the guest's watchdog has expired: the guest does
///   not respond
/// @SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR: QEMU cannot continue to run the machine
/// @SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE: the host's memory is defective
/// @SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN: the guest has shut down
/// @SPICE_QMP_CONDITION_CODE_HOST_SHUTDOWN: QEMU was quit on the host: by a command, a
///   signal or its window
/// @SPICE_QMP_CONDITION_CODE_GUEST_RESET: the guest has restarted, and QEMU shuts the
///   machine down instead
/// @SPICE_QMP_CONDITION_CODE_HOST_RESET: the machine was reset on the host, and QEMU
///   shuts it down instead
/// @SPICE_QMP_CONDITION_CODE_SHUTDOWN: the machine has shut down before the port was
///   connected; it is not known whether the guest or the host did that
/// @SPICE_QMP_CONDITION_CODE_MIGRATED: the machine has been migrated, and may be running
///   elsewhere
/// @SPICE_QMP_CONDITION_CODE_CONNECTION_LOST: the connection to QEMU has ended, for no
///   other known reason. Not if the program closes the port with
///   spice_qmp_port_close_async(): that changes no condition
///
/// The kinds of conditions: see spice_qmp_condition_get_code(). More may be added.
///
/// Since: 0.2
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpConditionCode {
    SPICE_QMP_CONDITION_CODE_DISK_FULL = 0,
    SPICE_QMP_CONDITION_CODE_DISK_ERROR = 1,
    SPICE_QMP_CONDITION_CODE_GUEST_PANICKED = 2,
    SPICE_QMP_CONDITION_CODE_WATCHDOG = 3,
    SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR = 4,
    SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE = 5,
    SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN = 6,
    SPICE_QMP_CONDITION_CODE_HOST_SHUTDOWN = 7,
    SPICE_QMP_CONDITION_CODE_GUEST_RESET = 8,
    SPICE_QMP_CONDITION_CODE_HOST_RESET = 9,
    SPICE_QMP_CONDITION_CODE_SHUTDOWN = 10,
    SPICE_QMP_CONDITION_CODE_MIGRATED = 11,
    SPICE_QMP_CONDITION_CODE_CONNECTION_LOST = 12,
}

/// SpiceQmpConditionSeverity:
/// @SPICE_QMP_CONDITION_SEVERITY_INFO: it was intended
/// @SPICE_QMP_CONDITION_SEVERITY_WARNING: the machine can continue once the cause has
///   been removed
/// @SPICE_QMP_CONDITION_SEVERITY_ERROR: something is broken
///
/// How bad a condition is.
///
/// Since: 0.2
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpConditionSeverity {
    SPICE_QMP_CONDITION_SEVERITY_INFO = 0,
    SPICE_QMP_CONDITION_SEVERITY_WARNING = 1,
    SPICE_QMP_CONDITION_SEVERITY_ERROR = 2,
}

/// SpiceQmpCondition:
///
/// The reason why a virtual machine is not running: the property #SpiceQmpMachine:condition.
/// It is immutable and may be used from any thread.
///
/// ```c
/// static void
/// on_condition (SpiceQmpMachine *machine)
/// {
///     g_autoptr (SpiceQmpCondition) condition = spice_qmp_machine_dup_condition (machine);
///
///     if (!condition)
///         hide_banner ();
///     else if (spice_qmp_condition_get_code (condition) == SPICE_QMP_CONDITION_CODE_DISK_FULL)
///         show_banner (_("There is no space left for the drive %s"),
///                      spice_qmp_condition_get_subject (condition));
///     else
///         show_banner ("%s", spice_qmp_condition_get_message (condition));
/// }
/// ```
///
/// Since: 0.2
pub struct SpiceQmpCondition(());

/// spice_qmp_condition_get_type:
///
/// Returns: the #GType of #SpiceQmpCondition
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_condition_get_type() -> GType {
    Condition::static_type().into_glib()
}

/// spice_qmp_condition_code_get_type:
///
/// Returns: the #GType of #SpiceQmpConditionCode
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_condition_code_get_type() -> GType {
    ConditionCode::static_type().into_glib()
}

/// spice_qmp_condition_severity_get_type:
///
/// Returns: the #GType of #SpiceQmpConditionSeverity
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_condition_severity_get_type() -> GType {
    ConditionSeverity::static_type().into_glib()
}

/// spice_qmp_condition_ref:
/// @condition: a #SpiceQmpCondition
///
/// Takes a reference to @condition, from any thread.
///
/// Returns: (transfer full): the same @condition
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_ref(
    condition: *mut SpiceQmpCondition,
) -> *mut SpiceQmpCondition {
    no_panic("spice_qmp_condition_ref", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_condition_ref: !condition.is_null(), null_mut());
        let type_ = Condition::static_type().into_glib();
        // SAFETY: `condition` is a live boxed `Condition`.
        unsafe { glib::gobject_ffi::g_boxed_copy(type_, condition.cast()).cast() }
    })
}

/// spice_qmp_condition_unref:
/// @condition: (transfer full): a #SpiceQmpCondition
///
/// Releases a reference, from any thread. Releasing the last one frees @condition.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_unref(condition: *mut SpiceQmpCondition) {
    no_panic("spice_qmp_condition_unref", (), || {
        g_return_if_fail!(spice_qmp_condition_unref: !condition.is_null());
        let type_ = Condition::static_type().into_glib();
        // SAFETY: the caller gives up its reference to a boxed `Condition`.
        unsafe { glib::gobject_ffi::g_boxed_free(type_, condition.cast()) }
    });
}

/// spice_qmp_condition_get_code:
/// @condition: a #SpiceQmpCondition
///
/// Gets the kind of the condition.
///
/// Returns: the code; treat one that you do not know by its severity
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_get_code(
    condition: *const SpiceQmpCondition,
) -> SpiceQmpConditionCode {
    let none = SpiceQmpConditionCode::SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR;
    no_panic("spice_qmp_condition_get_code", none, || {
        g_return_val_if_fail!(spice_qmp_condition_get_code: !condition.is_null(),
                              SpiceQmpConditionCode::SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR);
        // SAFETY: `condition` is a live `SpiceQmpCondition`.
        code_in_header(unsafe { borrow(condition) }.code())
    })
}

/// spice_qmp_condition_get_severity:
/// @condition: a #SpiceQmpCondition
///
/// Gets the severity of the condition, for the colour of a banner: it depends on the code
/// only.
///
/// Returns: the severity
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_get_severity(
    condition: *const SpiceQmpCondition,
) -> SpiceQmpConditionSeverity {
    let none = SpiceQmpConditionSeverity::SPICE_QMP_CONDITION_SEVERITY_ERROR;
    no_panic("spice_qmp_condition_get_severity", none, || {
        g_return_val_if_fail!(spice_qmp_condition_get_severity: !condition.is_null(),
                              SpiceQmpConditionSeverity::SPICE_QMP_CONDITION_SEVERITY_ERROR);
        // SAFETY: `condition` is a live `SpiceQmpCondition`.
        severity_in_header(unsafe { borrow(condition) }.severity())
    })
}

/// spice_qmp_condition_get_subject:
/// @condition: a #SpiceQmpCondition
///
/// Gets what the condition concerns: the drive, by its name in the `qdev` member of
/// `query-block`. QEMU 7.2 does not report that name over SPICE; then it is the name of the
/// drive's backend or node.
///
/// Returns: (transfer none) (nullable): the name, or %NULL if the condition does not
///   concern a device, or the device is not known; it lives as long as @condition
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_get_subject(
    condition: *const SpiceQmpCondition,
) -> *const c_char {
    no_panic("spice_qmp_condition_get_subject", null(), || {
        g_return_val_if_fail!(spice_qmp_condition_get_subject: !condition.is_null(), null());
        // SAFETY: `condition` is a live `SpiceQmpCondition`.
        let condition = unsafe { borrow(condition) };
        condition.subject_gstr().map_or(null(), glib::GStr::as_ptr)
    })
}

/// spice_qmp_condition_get_message:
/// @condition: a #SpiceQmpCondition
///
/// Gets a description of what happened, in English: one line without a full stop, such as
/// `Disk full: the host has no space left for the drive hd0`. A program that translates
/// uses the code and the subject instead.
///
/// Returns: (transfer none): the text; it lives as long as @condition
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_get_message(
    condition: *const SpiceQmpCondition,
) -> *const c_char {
    no_panic("spice_qmp_condition_get_message", null(), || {
        g_return_val_if_fail!(spice_qmp_condition_get_message: !condition.is_null(), null());
        // SAFETY: `condition` is a live `SpiceQmpCondition`.
        unsafe { borrow(condition) }.message_gstr().as_ptr()
    })
}

/// spice_qmp_condition_get_detail:
/// @condition: a #SpiceQmpCondition
///
/// Gets the data of QEMU's event as JSON text.
///
/// Returns: (transfer none) (nullable): the text of a JSON object, or %NULL if there
///   was no event: the machine stopped before the port was connected, or the
///   connection has ended; it lives as long as @condition
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_condition_get_detail(
    condition: *const SpiceQmpCondition,
) -> *const c_char {
    no_panic("spice_qmp_condition_get_detail", null(), || {
        g_return_val_if_fail!(spice_qmp_condition_get_detail: !condition.is_null(), null());
        // SAFETY: `condition` is a live `SpiceQmpCondition`.
        let condition = unsafe { borrow(condition) };
        condition.detail_gstr().map_or(null(), glib::GStr::as_ptr)
    })
}

/// # Safety
///
/// `condition` is a live `SpiceQmpCondition`, and stays so while the result is used.
unsafe fn borrow(condition: *const SpiceQmpCondition) -> Borrowed<Condition> {
    let condition: <Condition as GlibPtrDefault>::GlibType = condition.cast_mut().cast();
    // SAFETY: a `SpiceQmpCondition *` is the pointer of a boxed `Condition`.
    unsafe { FromGlibPtrBorrow::from_glib_borrow(condition) }
}

/// The code in the header. A new one does not compile until it is mapped.
const fn code_in_header(code: ConditionCode) -> SpiceQmpConditionCode {
    use SpiceQmpConditionCode as C;

    match code {
        ConditionCode::DiskFull => C::SPICE_QMP_CONDITION_CODE_DISK_FULL,
        ConditionCode::DiskError => C::SPICE_QMP_CONDITION_CODE_DISK_ERROR,
        ConditionCode::GuestPanicked => C::SPICE_QMP_CONDITION_CODE_GUEST_PANICKED,
        ConditionCode::Watchdog => C::SPICE_QMP_CONDITION_CODE_WATCHDOG,
        ConditionCode::InternalError => C::SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR,
        ConditionCode::MemoryFailure => C::SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE,
        ConditionCode::GuestShutdown => C::SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN,
        ConditionCode::HostShutdown => C::SPICE_QMP_CONDITION_CODE_HOST_SHUTDOWN,
        ConditionCode::GuestReset => C::SPICE_QMP_CONDITION_CODE_GUEST_RESET,
        ConditionCode::HostReset => C::SPICE_QMP_CONDITION_CODE_HOST_RESET,
        ConditionCode::Shutdown => C::SPICE_QMP_CONDITION_CODE_SHUTDOWN,
        ConditionCode::Migrated => C::SPICE_QMP_CONDITION_CODE_MIGRATED,
        ConditionCode::ConnectionLost => C::SPICE_QMP_CONDITION_CODE_CONNECTION_LOST,
        // Found below: this is evaluated for each of them when it is compiled.
        _ => panic!("the header lacks a code"),
    }
}

const fn severity_in_header(severity: ConditionSeverity) -> SpiceQmpConditionSeverity {
    use SpiceQmpConditionSeverity as C;

    match severity {
        ConditionSeverity::Info => C::SPICE_QMP_CONDITION_SEVERITY_INFO,
        ConditionSeverity::Warning => C::SPICE_QMP_CONDITION_SEVERITY_WARNING,
        ConditionSeverity::Error => C::SPICE_QMP_CONDITION_SEVERITY_ERROR,
    }
}

const _: () = {
    let codes = ConditionCode::ALL;
    let mut i = 0;
    while i < codes.len() {
        assert!(codes[i] as i32 == code_in_header(codes[i]) as i32);
        i += 1;
    }
    let severity = ConditionSeverity::Error;
    assert!(severity as i32 == severity_in_header(severity) as i32);
};
