// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpDrive`

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, GFALSE, GType, gboolean, gpointer};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use spice_qmp::Drive;

use crate::guard::{g_return_val_if_fail, g_utf8_validate, is_a, no_panic};
use crate::insert_flags::InsertFlagsOfC;
use crate::task::{Caller, Operation, finish_boolean, g_task_return_if_fail};

pub struct SpiceQmpDrive(());

/// spice_qmp_drive_get_type:
///
/// Returns: the #GType of #SpiceQmpDrive
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_drive_get_type() -> GType {
    Drive::static_type().into_glib()
}

/// spice_qmp_drive_dup_id: (get-property id)
/// @drive: a #SpiceQmpDrive
///
/// The id of the drive in QEMU's commands: the property #SpiceQmpDrive:id.
///
/// Returns: (transfer full): the id
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_dup_id(drive: *mut SpiceQmpDrive) -> *mut c_char {
    no_panic("spice_qmp_drive_dup_id", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_drive_dup_id: SPICE_IS_QMP_DRIVE(drive), null_mut());
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.id().to_glib_full()
    })
}

/// spice_qmp_drive_dup_name: (get-property name)
/// @drive: a #SpiceQmpDrive
///
/// A name to show for the drive: the property #SpiceQmpDrive:name.
///
/// Returns: (transfer full): the name
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_dup_name(drive: *mut SpiceQmpDrive) -> *mut c_char {
    no_panic("spice_qmp_drive_dup_name", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_drive_dup_name: SPICE_IS_QMP_DRIVE(drive), null_mut());
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.name().to_glib_full()
    })
}

/// spice_qmp_drive_get_removable: (get-property removable)
/// @drive: a #SpiceQmpDrive
///
/// Whether the medium can be changed: the property #SpiceQmpDrive:removable.
///
/// Returns: %TRUE if it can
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_get_removable(drive: *mut SpiceQmpDrive) -> gboolean {
    no_panic("spice_qmp_drive_get_removable", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_drive_get_removable: SPICE_IS_QMP_DRIVE(drive), GFALSE);
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.removable().into_glib()
    })
}

/// spice_qmp_drive_dup_medium: (get-property medium)
/// @drive: a #SpiceQmpDrive
///
/// The file name of the medium: the property #SpiceQmpDrive:medium.
///
/// Returns: (transfer full) (nullable): the file name, or %NULL if there is no medium
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_dup_medium(drive: *mut SpiceQmpDrive) -> *mut c_char {
    no_panic("spice_qmp_drive_dup_medium", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_drive_dup_medium: SPICE_IS_QMP_DRIVE(drive), null_mut());
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.medium().to_glib_full()
    })
}

/// spice_qmp_drive_get_read_only: (get-property read-only)
/// @drive: a #SpiceQmpDrive
///
/// Whether the guest cannot write to the medium: the property #SpiceQmpDrive:read-only.
///
/// Returns: %TRUE if it cannot
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_get_read_only(drive: *mut SpiceQmpDrive) -> gboolean {
    no_panic("spice_qmp_drive_get_read_only", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_drive_get_read_only: SPICE_IS_QMP_DRIVE(drive), GFALSE);
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.read_only().into_glib()
    })
}

/// spice_qmp_drive_get_locked: (get-property locked)
/// @drive: a #SpiceQmpDrive
///
/// Whether the guest has locked the tray: the property #SpiceQmpDrive:locked.
///
/// Returns: %TRUE if it has
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_get_locked(drive: *mut SpiceQmpDrive) -> gboolean {
    no_panic("spice_qmp_drive_get_locked", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_drive_get_locked: SPICE_IS_QMP_DRIVE(drive), GFALSE);
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.locked().into_glib()
    })
}

/// spice_qmp_drive_get_tray_open: (get-property tray-open)
/// @drive: a #SpiceQmpDrive
///
/// Whether the tray is open: the property #SpiceQmpDrive:tray-open.
///
/// Returns: %TRUE if it is
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_get_tray_open(drive: *mut SpiceQmpDrive) -> gboolean {
    no_panic("spice_qmp_drive_get_tray_open", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_drive_get_tray_open: SPICE_IS_QMP_DRIVE(drive), GFALSE);
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.tray_open().into_glib()
    })
}

/// spice_qmp_drive_dup_io_status: (get-property io-status)
/// @drive: a #SpiceQmpDrive
///
/// Whether the machine was stopped because of the drive: the property #SpiceQmpDrive:io-status.
///
/// Returns: (transfer full) (nullable): `ok`, `nospace` or `failed`, or %NULL if QEMU does not report it
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_dup_io_status(drive: *mut SpiceQmpDrive) -> *mut c_char {
    no_panic("spice_qmp_drive_dup_io_status", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_drive_dup_io_status: SPICE_IS_QMP_DRIVE(drive), null_mut());
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.io_status().to_glib_full()
    })
}

/// spice_qmp_drive_dup_lost_medium: (get-property lost-medium)
/// @drive: a #SpiceQmpDrive
///
/// The medium that an insertion removed before it failed: the property #SpiceQmpDrive:lost-medium.
///
/// Returns: (transfer full) (nullable): the file name, or %NULL
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_dup_lost_medium(drive: *mut SpiceQmpDrive) -> *mut c_char {
    no_panic("spice_qmp_drive_dup_lost_medium", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_drive_dup_lost_medium: SPICE_IS_QMP_DRIVE(drive), null_mut());
        // SAFETY: it was found to be a SpiceQmpDrive.
        unsafe { borrow(drive) }.lost_medium().to_glib_full()
    })
}

/// spice_qmp_drive_insert_async:
/// @drive: a #SpiceQmpDrive
/// @file: the name of a file on QEMU's host
/// @format: (nullable): the format of @file, such as `raw` or `qcow2`, or %NULL to let
///   QEMU guess it
/// @flags: how the medium is inserted
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the medium is in
///   the drive, or with an error
/// @user_data: for @callback
///
/// Inserts a medium in place of the one in the drive, if any: executes
/// `blockdev-change-medium`, which opens the tray and closes it.
///
/// QEMU guesses the format from the contents: pass @format if others, such as a guest,
/// could write to the file.
///
/// The properties of @drive have changed when @callback is called.
///
/// ```c
/// spice_qmp_drive_insert_async (drive, "/srv/debian.iso", "raw", SPICE_QMP_INSERT_FLAGS_READ_ONLY,
///                               NULL, on_inserted, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_insert_async(
    drive: *mut SpiceQmpDrive,
    file: *const c_char,
    format: *const c_char,
    flags: InsertFlagsOfC,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Insert, cancellable, callback, user_data) };
    no_panic("spice_qmp_drive_insert_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_DRIVE(drive));
        g_task_return_if_fail!(caller: IS_THREAD_OF_DRIVE(drive));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: g_utf8_validate(file));
        g_task_return_if_fail!(caller: (format.is_null() || g_utf8_validate(format)));
        g_task_return_if_fail!(caller: flags.are_sound());
        // SAFETY: all were checked.
        unsafe { insert(caller, drive, file, format, flags, None) }
    });
}

/// spice_qmp_drive_insert_finish:
/// @drive: a #SpiceQmpDrive
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_drive_insert_async(). The errors are those of
/// spice_qmp_port_execute_finish(); %SPICE_QMP_ERROR_GENERIC if the guest has locked the
/// tray, @drive has no removable medium, or the file cannot be opened or does not have the
/// format. @drive is unchanged then, with one exception: QEMU may find out too late that
/// the file is in use. The old medium is lost then, and the tray stays open. The message
/// says so, and #SpiceQmpDrive:lost-medium is the medium to insert again.
///
/// Returns: %TRUE if the medium is in the drive
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_insert_finish(
    drive: *mut SpiceQmpDrive,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::Insert, drive.cast(), result, error) }
}

/// spice_qmp_drive_insert_fd_async:
/// @drive: a #SpiceQmpDrive
/// @fd: an open file
/// @name: what QEMU's lists of file descriptors call it
/// @format: (nullable): the format of the file, such as `raw` or `qcow2`, or %NULL to let
///   QEMU guess it
/// @flags: how the medium is inserted
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the medium is in
///   the drive, or with an error
/// @user_data: for @callback
///
/// Inserts a medium like spice_qmp_drive_insert_async(), for a QEMU that cannot open the
/// file itself: sends it an open file. #SpiceQmpDrive:medium is what QEMU calls that, such
/// as `/dev/fdset/1`.
///
/// @fd is duplicated before the function returns, so you may close it at once. Without
/// %SPICE_QMP_INSERT_FLAGS_READ_ONLY and %SPICE_QMP_INSERT_FLAGS_READ_WRITE, the medium is
/// read-only if @fd is. File descriptors can be sent over Unix sockets and to D-Bus
/// displays.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_insert_fd_async(
    drive: *mut SpiceQmpDrive,
    fd: c_int,
    name: *const c_char,
    format: *const c_char,
    flags: InsertFlagsOfC,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::InsertFd, cancellable, callback, user_data) };
    no_panic("spice_qmp_drive_insert_fd_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_DRIVE(drive));
        g_task_return_if_fail!(caller: IS_THREAD_OF_DRIVE(drive));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: fd >= 0);
        g_task_return_if_fail!(caller: g_utf8_validate(name));
        g_task_return_if_fail!(caller: (format.is_null() || g_utf8_validate(format)));
        g_task_return_if_fail!(caller: flags.are_sound());
        // SAFETY: it is not -1, and C keeps it open until this returns.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        // SAFETY: all were checked.
        unsafe { insert(caller, drive, name, format, flags, Some(fd)) }
    });
}

/// spice_qmp_drive_insert_fd_finish:
/// @drive: a #SpiceQmpDrive
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_drive_insert_fd_async(). The errors are those of
/// spice_qmp_drive_insert_finish(), %SPICE_QMP_ERROR_NOT_SUPPORTED if file descriptors
/// cannot be sent over the connection, and %SPICE_QMP_ERROR_INVALID_ARGUMENT if the file
/// is not open.
///
/// Returns: %TRUE if the medium is in the drive
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_insert_fd_finish(
    drive: *mut SpiceQmpDrive,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::InsertFd, drive.cast(), result, error) }
}

/// spice_qmp_drive_eject_async:
/// @drive: a #SpiceQmpDrive
/// @force: whether to open the tray even if the guest has locked it
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the drive is
///   empty, or with an error
/// @user_data: for @callback
///
/// Opens the tray and removes the medium, if there is one: executes `eject`. The tray
/// stays open.
///
/// If the guest has locked the tray and @force is %FALSE, this fails, but the guest is
/// asked to release the medium and may open the tray later.
///
/// The properties of @drive have changed when @callback is called.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_eject_async(
    drive: *mut SpiceQmpDrive,
    force: gboolean,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Eject, cancellable, callback, user_data) };
    no_panic("spice_qmp_drive_eject_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_DRIVE(drive));
        g_task_return_if_fail!(caller: IS_THREAD_OF_DRIVE(drive));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpDrive.
        let drive = unsafe { borrow(drive) };
        let own = (*drive).clone();
        let eject = async move { own.eject(force != GFALSE).await };
        caller.future_of(drive.upcast_ref(), &drive.main_context(), eject);
    });
}

/// spice_qmp_drive_eject_finish:
/// @drive: a #SpiceQmpDrive
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_drive_eject_async(). The errors are those of
/// spice_qmp_port_execute_finish(); %SPICE_QMP_ERROR_GENERIC if the guest has locked the
/// tray, or @drive has no removable medium.
///
/// Returns: %TRUE if the drive is empty
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_drive_eject_finish(
    drive: *mut SpiceQmpDrive,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::Eject, drive.cast(), result, error) }
}

/// # Safety
///
/// `drive` is a live `SpiceQmpDrive`, `file` a string, and `format` one or NULL.
unsafe fn insert(
    caller: Caller,
    drive: *mut SpiceQmpDrive,
    file: *const c_char,
    format: *const c_char,
    flags: InsertFlagsOfC,
    fd: Option<BorrowedFd<'_>>,
) {
    // SAFETY: as the caller promises.
    let (drive, file) = unsafe { (borrow(drive), CStr::from_ptr(file)) };
    let mut insert = flags.apply_to(drive.insert(&file.to_string_lossy()));
    if !format.is_null() {
        // SAFETY: as the caller promises.
        insert = insert.format(&unsafe { CStr::from_ptr(format) }.to_string_lossy());
    }
    if let Some(fd) = fd {
        insert = insert.fd(fd);
    }
    caller.future_of(
        drive.upcast_ref(),
        &drive.main_context(),
        insert.into_future(),
    );
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_DRIVE(drive: *mut SpiceQmpDrive) -> bool {
    is_a(drive.cast(), Drive::static_type())
}

/// Whether this thread created the port of the drive, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_THREAD_OF_DRIVE(drive: *mut SpiceQmpDrive) -> bool {
    // SAFETY: it is a live SpiceQmpDrive; any thread may ask.
    unsafe { borrow(drive) }.is_on_its_thread()
}

/// # Safety
///
/// `drive` is a live `SpiceQmpDrive`, and stays so while the result is used.
unsafe fn borrow(drive: *mut SpiceQmpDrive) -> Borrowed<Drive> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(drive.cast::<<Drive as ObjectType>::GlibType>()) }
}
