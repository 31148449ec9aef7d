// SPDX-License-Identifier: MIT OR Apache-2.0
//! The snapshots of a `SpiceQmpMachine`

use std::ffi::{CStr, c_char};
use std::future::Future;
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, gboolean, gpointer};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::ToGlibPtr;
use spice_qmp::{Error, List, Machine};

use crate::guard::{g_return_val_if_fail, g_utf8_validate, no_panic};
use crate::list::SpiceQmpList;
use crate::machine::{IS_THREAD_OF_MACHINE, SPICE_IS_QMP_MACHINE, SpiceQmpMachine, borrow};
use crate::task::{Caller, Operation, finish_boolean, g_task_return_if_fail};

/// spice_qmp_machine_get_snapshots: (get-property snapshots)
/// @machine: a #SpiceQmpMachine
///
/// The snapshots on the disks of the machine: the property #SpiceQmpMachine:snapshots.
///
/// Returns: (transfer none): a list of #SpiceQmpSnapshot
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_get_snapshots(
    machine: *mut SpiceQmpMachine,
) -> *mut SpiceQmpList {
    no_panic("spice_qmp_machine_get_snapshots", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_machine_get_snapshots: SPICE_IS_QMP_MACHINE(machine), null_mut());
        g_return_val_if_fail!(spice_qmp_machine_get_snapshots: IS_THREAD_OF_MACHINE(machine), null_mut());
        // SAFETY: it was found to be a SpiceQmpMachine.
        let list = unsafe { borrow(machine) }.snapshots();
        // The machine's reference keeps it.
        let list: *mut <List as ObjectType>::GlibType = list.to_glib_none().0;
        list.cast()
    })
}

/// spice_qmp_machine_save_snapshot_async:
/// @machine: a #SpiceQmpMachine
/// @tag: the name of the new snapshot
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when this is done, or
///   with an error
/// @user_data: for @callback
///
/// Saves the state of the machine and of its disks under a new name. A running machine
/// continues when the snapshot has been saved.
///
/// All disks that can be written to must be able to hold snapshots, such as those in the
/// format qcow2. QEMU does nothing else meanwhile, for any client; there is neither progress
/// nor a deadline. Cancelling the call does not stop the operation: only the result is lost.
/// Other snapshot operations on the machine wait until it has finished.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_save_snapshot_async(
    machine: *mut SpiceQmpMachine,
    tag: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::SaveSnapshot, cancellable, callback, user_data) };
    no_panic("spice_qmp_machine_save_snapshot_async", (), || {
        // SAFETY: C passes a machine and a string, or NULL.
        unsafe { begin(caller, machine, tag, Machine::save_snapshot) }
    });
}

/// spice_qmp_machine_save_snapshot_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_save_snapshot_async(). The errors are those of
/// spice_qmp_port_execute_finish(); %SPICE_QMP_ERROR_GENERIC if there is a snapshot of this
/// name, the machine has no disk, or one that holds no snapshots, or the state cannot be
/// written; %SPICE_QMP_ERROR_INVALID_ARGUMENT if the name is empty or has more than 255 bytes;
/// %SPICE_QMP_ERROR_NOT_SUPPORTED if spice_qmp_port_is_mute() is %TRUE for the port. On error
/// everything is as it was.
///
/// Returns: %TRUE if the snapshot has been saved
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_save_snapshot_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::SaveSnapshot, machine.cast(), result, error) }
}

/// spice_qmp_machine_load_snapshot_async:
/// @machine: a #SpiceQmpMachine
/// @tag: the name of a snapshot
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when this is done, or
///   with an error
/// @user_data: for @callback
///
/// Returns to a snapshot: restores the memory and all disks. Their current contents are
/// lost.
///
/// A running machine is paused, and resumed when the operation has succeeded or failed.
/// A machine that is not running stays as it is. If the connection ends meanwhile, the
/// machine may stay paused. Otherwise this is like spice_qmp_machine_save_snapshot_async().
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_load_snapshot_async(
    machine: *mut SpiceQmpMachine,
    tag: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::LoadSnapshot, cancellable, callback, user_data) };
    no_panic("spice_qmp_machine_load_snapshot_async", (), || {
        // SAFETY: C passes a machine and a string, or NULL.
        unsafe { begin(caller, machine, tag, Machine::load_snapshot) }
    });
}

/// spice_qmp_machine_load_snapshot_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_load_snapshot_async(). The errors are those of
/// spice_qmp_port_execute_finish(), %SPICE_QMP_ERROR_NOT_SUPPORTED if
/// spice_qmp_port_is_mute() is %TRUE for the port, and %SPICE_QMP_ERROR_GENERIC.
///
/// The latter means that nothing has been changed, because there is no such snapshot, a disk
/// does not have it, or it is of disks only. It can also mean that the state does not fit the
/// machine, which may have had other devices or a different amount of memory. QEMU finds this
/// out only when it has restored the disks and reset the machine.
///
/// Returns: %TRUE if the machine has returned to the snapshot
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_load_snapshot_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::LoadSnapshot, machine.cast(), result, error) }
}

/// spice_qmp_machine_delete_snapshot_async:
/// @machine: a #SpiceQmpMachine
/// @tag: the name of a snapshot
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when this is done, or
///   with an error
/// @user_data: for @callback
///
/// Deletes a snapshot from all disks that have it. Cancelling the call does not stop it.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_delete_snapshot_async(
    machine: *mut SpiceQmpMachine,
    tag: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller =
        unsafe { Caller::new(Operation::DeleteSnapshot, cancellable, callback, user_data) };
    no_panic("spice_qmp_machine_delete_snapshot_async", (), || {
        // SAFETY: C passes a machine and a string, or NULL.
        unsafe { begin(caller, machine, tag, Machine::delete_snapshot) }
    });
}

/// spice_qmp_machine_delete_snapshot_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_delete_snapshot_async(). The errors are those of
/// spice_qmp_port_execute_finish(), %SPICE_QMP_ERROR_GENERIC if there is no such snapshot, and
/// %SPICE_QMP_ERROR_NOT_SUPPORTED if spice_qmp_port_is_mute() is %TRUE for the port.
///
/// Returns: %TRUE if the snapshot has been deleted
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_delete_snapshot_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::DeleteSnapshot, machine.cast(), result, error) }
}

/// The common part of these functions.
///
/// # Safety
///
/// `machine` is a machine or NULL, and `tag` a string or NULL.
unsafe fn begin<F>(
    caller: Caller,
    machine: *mut SpiceQmpMachine,
    tag: *const c_char,
    deed: impl FnOnce(&Machine, &str) -> F,
) where
    F: Future<Output = Result<(), Error>> + 'static,
{
    g_task_return_if_fail!(caller: SPICE_IS_QMP_MACHINE(machine));
    g_task_return_if_fail!(caller: IS_THREAD_OF_MACHINE(machine));
    g_task_return_if_fail!(caller: caller.cancellable_fits());
    g_task_return_if_fail!(caller: g_utf8_validate(tag));
    // SAFETY: both were checked.
    let (machine, tag) = unsafe { (borrow(machine), CStr::from_ptr(tag)) };
    let deed = deed(&machine, &tag.to_string_lossy());
    caller.future_of(machine.upcast_ref(), &machine.main_context(), deed);
}
