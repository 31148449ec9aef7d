// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpMachine`

use std::ffi::{CStr, c_char, c_uint};
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GBytes, GDestroyNotify, GError, GType, gboolean, gpointer};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{
    Borrowed, GlibPtrDefault, IntoGlib, IntoGlibPtr, ToGlibPtr, from_glib_borrow,
};
use spice_qmp::{Condition, Job, List, Machine, QmpPort, RunJob};

use crate::condition::SpiceQmpCondition;
use crate::guard::{
    IS_THREAD_OF, SPICE_IS_QMP_PORT, g_return_val_if_fail, g_utf8_validate, is_a, no_panic,
};
use crate::instance::{self, SpiceQmpPort};
use crate::job::SpiceQmpJobProgress;
use crate::list::SpiceQmpList;
use crate::schema::SpiceQmpSchema;
use crate::task::{
    Caller, Operation, finish_boolean, finish_pointer, g_task_return_if_fail, timeout_of,
};

pub struct SpiceQmpMachine(());

/// spice_qmp_machine_get_type:
///
/// Returns: the #GType of #SpiceQmpMachine
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_machine_get_type() -> GType {
    Machine::static_type().into_glib()
}

/// spice_qmp_machine_new:
/// @port: a #SpiceQmpPort, which need not be ready yet
///
/// Creates the machine behind @port. It holds a reference to @port.
///
/// Returns: (transfer full): a new machine
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_new(port: *mut SpiceQmpPort) -> *mut SpiceQmpMachine {
    no_panic("spice_qmp_machine_new", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_machine_new: SPICE_IS_QMP_PORT(port), null_mut());
        g_return_val_if_fail!(spice_qmp_machine_new: IS_THREAD_OF(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        let port = unsafe { instance::borrow(port) };
        let machine = Machine::new(&port);
        let machine: *mut <Machine as ObjectType>::GlibType = machine.into_glib_ptr();
        machine.cast()
    })
}

/// spice_qmp_machine_get_port: (get-property port)
/// @machine: a #SpiceQmpMachine
///
/// The port to the machine: the property #SpiceQmpMachine:port.
///
/// Returns: (transfer none) (nullable): the port, or %NULL if @machine has been disposed
///   of
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_get_port(
    machine: *mut SpiceQmpMachine,
) -> *mut SpiceQmpPort {
    no_panic("spice_qmp_machine_get_port", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_machine_get_port: SPICE_IS_QMP_MACHINE(machine), null_mut());
        // SAFETY: it was found to be a SpiceQmpMachine.
        let port = unsafe { borrow(machine) }.port();
        // The machine's reference keeps it.
        let port: *mut <QmpPort as ObjectType>::GlibType = port.to_glib_none().0;
        port.cast()
    })
}

/// spice_qmp_machine_dup_condition: (get-property condition)
/// @machine: a #SpiceQmpMachine
///
/// Why the machine is not running: the property #SpiceQmpMachine:condition.
///
/// Returns: (transfer full) (nullable): the condition, or %NULL
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_dup_condition(
    machine: *mut SpiceQmpMachine,
) -> *mut SpiceQmpCondition {
    no_panic("spice_qmp_machine_dup_condition", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_machine_dup_condition: SPICE_IS_QMP_MACHINE(machine), null_mut());
        // SAFETY: it was found to be a SpiceQmpMachine.
        let condition = unsafe { borrow(machine) }.condition();
        let condition: <Condition as GlibPtrDefault>::GlibType = condition.to_glib_full();
        condition.cast()
    })
}

/// spice_qmp_machine_get_drives: (get-property drives)
/// @machine: a #SpiceQmpMachine
///
/// The drives of the machine: the property #SpiceQmpMachine:drives.
///
/// Returns: (transfer none): a list of #SpiceQmpDrive
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_get_drives(
    machine: *mut SpiceQmpMachine,
) -> *mut SpiceQmpList {
    no_panic("spice_qmp_machine_get_drives", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_machine_get_drives: SPICE_IS_QMP_MACHINE(machine), null_mut());
        g_return_val_if_fail!(spice_qmp_machine_get_drives: IS_THREAD_OF_MACHINE(machine), null_mut());
        // SAFETY: it was found to be a SpiceQmpMachine.
        let list = unsafe { borrow(machine) }.drives();
        // The machine's reference keeps it.
        let list: *mut <List as ObjectType>::GlibType = list.to_glib_none().0;
        list.cast()
    })
}

/// spice_qmp_machine_get_jobs: (get-property jobs)
/// @machine: a #SpiceQmpMachine
///
/// The jobs that QEMU runs in the background: the property #SpiceQmpMachine:jobs.
///
/// Returns: (transfer none): a list of #SpiceQmpJob
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_get_jobs(
    machine: *mut SpiceQmpMachine,
) -> *mut SpiceQmpList {
    no_panic("spice_qmp_machine_get_jobs", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_machine_get_jobs: SPICE_IS_QMP_MACHINE(machine), null_mut());
        g_return_val_if_fail!(spice_qmp_machine_get_jobs: IS_THREAD_OF_MACHINE(machine), null_mut());
        // SAFETY: it was found to be a SpiceQmpMachine.
        let jobs = unsafe { borrow(machine) }.jobs();
        // The machine's reference keeps it.
        let jobs: *mut <List as ObjectType>::GlibType = jobs.to_glib_none().0;
        jobs.cast()
    })
}

/// spice_qmp_machine_run_job_async:
/// @machine: a #SpiceQmpMachine
/// @command: the name of a command that starts a job, such as `blockdev-backup`
/// @arguments: (nullable): the text of a JSON object, or %NULL for no arguments; if it
///   has no `job-id`, one is added
/// @progress: (scope notified) (closure progress_data) (destroy progress_destroy) (nullable):
///   called with the job when it is known, and when its progress has changed, or %NULL
/// @progress_data: (nullable): for @progress
/// @progress_destroy: (nullable): frees @progress_data when the call has ended, or %NULL
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the job has ended,
///   or with an error
/// @user_data: for @callback
///
/// Runs a job: executes @command, waits until the job has ended, and makes QEMU forget it.
/// Cancelling the call cancels the job, which may take QEMU a while.
///
/// While the job runs, @progress is called about every 500 ms. It is not called for a job
/// that ends immediately. This call loads #SpiceQmpMachine:jobs.
///
/// There is no deadline: #SpiceQmpPort:command-timeout does not apply. Some jobs wait for
/// another command before they end: a mirror waits for spice_qmp_job_complete_async(), a
/// job with `auto-finalize` off for spice_qmp_job_finalize_async().
///
/// The command `migrate` is treated as if it started a job. On a SPICE port, only a paused
/// machine can be migrated.
///
/// ```c
/// spice_qmp_machine_run_job_async (machine, "blockdev-backup",
///                                  "{\"device\": \"disk\", \"target\": \"copy\", \"sync\": \"full\"}",
///                                  on_progress, g_object_ref (bar), g_object_unref,
///                                  cancellable, on_ended, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_run_job_async(
    machine: *mut SpiceQmpMachine,
    command: *const c_char,
    arguments: *const c_char,
    progress: SpiceQmpJobProgress,
    progress_data: gpointer,
    progress_destroy: GDestroyNotify,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::RunJob, cancellable, callback, user_data) };
    let progress = OnProgress {
        call: progress,
        data: progress_data,
        destroy: progress_destroy,
    };
    no_panic("spice_qmp_machine_run_job_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_MACHINE(machine));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MACHINE(machine));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: g_utf8_validate(command));
        g_task_return_if_fail!(caller: (arguments.is_null() || g_utf8_validate(arguments)));
        // SAFETY: all were checked.
        let (machine, command, arguments) = unsafe {
            let given = (!arguments.is_null()).then(|| CStr::from_ptr(arguments).to_string_lossy());
            (
                borrow(machine),
                CStr::from_ptr(command).to_string_lossy(),
                given,
            )
        };
        let run = machine.run_job_with(&command, arguments.as_deref());
        let run = progress.follow(run);
        caller.future_of(
            machine.upcast_ref(),
            &machine.main_context(),
            run.into_future(),
        );
    });
}

/// spice_qmp_machine_run_job_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_run_job_async(). The errors are those of
/// spice_qmp_port_execute_finish(); %SPICE_QMP_ERROR_GENERIC with QEMU's message if the job
/// failed; %G_IO_ERROR_CANCELLED also if another client cancelled the job;
/// %SPICE_QMP_ERROR_NOT_SUPPORTED if spice_qmp_port_is_mute() is %TRUE for the port, or
/// would become %TRUE.
///
/// Returns: %TRUE if the job was successful
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_run_job_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::RunJob, machine.cast(), result, error) }
}

/// A C function and its data, which this owns.
struct OnProgress {
    call: SpiceQmpJobProgress,
    data: gpointer,
    destroy: GDestroyNotify,
}

impl OnProgress {
    fn follow(self, run: RunJob) -> RunJob {
        let Some(call) = self.call else {
            return run;
        };
        run.progress(move |job| {
            // All of it, or the data would be freed now.
            let own = &self;
            let job: *mut <Job as ObjectType>::GlibType = job.to_glib_none().0;
            // SAFETY: the job lives for the call, and the data until this is dropped.
            unsafe { call(job.cast(), own.data) }
        })
    }
}

impl Drop for OnProgress {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: C passed both together; this is dropped once.
            unsafe { destroy(self.data) }
        }
    }
}

/// spice_qmp_machine_unplug_async:
/// @machine: a #SpiceQmpMachine
/// @id: the device's id, or its path such as `/machine/peripheral-anon/device[0]`
/// @timeout_ms: the deadline in milliseconds, after which the call fails with
///   %G_IO_ERROR_TIMED_OUT, or 0 for none
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the device is
///   gone, or with an error
/// @user_data: for @callback
///
/// Unplugs a device: executes `device_del`, and waits until the guest has released the
/// device or refuses to.
///
/// Set a deadline: a guest that is not responding neither releases the device nor
/// refuses. It may still release the device after the deadline.
///
/// ```c
/// spice_qmp_machine_unplug_async (machine, "usb1", 10000, NULL, on_unplugged, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_unplug_async(
    machine: *mut SpiceQmpMachine,
    id: *const c_char,
    timeout_ms: c_uint,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Unplug, cancellable, callback, user_data) };
    no_panic("spice_qmp_machine_unplug_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_MACHINE(machine));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MACHINE(machine));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: g_utf8_validate(id));
        // SAFETY: both were checked.
        let (machine, id) = unsafe { (borrow(machine), CStr::from_ptr(id)) };
        let unplug = machine.unplug(&id.to_string_lossy());
        let unplug = unplug.timeout(timeout_of(timeout_ms));
        caller.future_of(
            machine.upcast_ref(),
            &machine.main_context(),
            unplug.into_future(),
        );
    });
}

/// spice_qmp_machine_unplug_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_unplug_async(). The errors are those of
/// spice_qmp_port_execute_finish(); %SPICE_QMP_ERROR_GENERIC if the guest refuses to
/// release the device.
///
/// Returns: %TRUE if the device is gone
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_unplug_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::Unplug, machine.cast(), result, error) }
}

/// spice_qmp_machine_load_schema_async:
/// @machine: a #SpiceQmpMachine
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called with the schema, or
///   with an error
/// @user_data: for @callback
///
/// Loads the names of QEMU's commands and of their arguments: executes
/// `query-qmp-schema`. Of the reply, which is larger than 200 kB, only the names are kept,
/// until the connection ends or QEMU's version changes. Calls that are made meanwhile
/// wait for the same reply; cancelling one does not affect the others.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_load_schema_async(
    machine: *mut SpiceQmpMachine,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::LoadSchema, cancellable, callback, user_data) };
    no_panic("spice_qmp_machine_load_schema_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_MACHINE(machine));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MACHINE(machine));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpMachine.
        let machine = unsafe { borrow(machine) };
        let own = (*machine).clone();
        let load = async move { own.load_schema().await };
        caller.future_of(machine.upcast_ref(), &machine.main_context(), load);
    });
}

/// spice_qmp_machine_load_schema_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_load_schema_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED if
/// spice_qmp_port_is_mute() is %TRUE for the port.
///
/// Returns: (transfer full): the schema, or %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_load_schema_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpSchema {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::LoadSchema, machine.cast(), result, error) }
}

/// spice_qmp_machine_screenshot_async:
/// @machine: a #SpiceQmpMachine
/// @device: (nullable): the id of a display device, or %NULL for the first screen
/// @head: the head of @device, counted from 0; 0 without a device
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called with the image, or
///   with an error
/// @user_data: for @callback
///
/// Takes a screenshot of a screen. QEMU 7.1 or later writes it to memory of this
/// process, whose file descriptor is sent to it: see spice_qmp_port_execute_full_async() for
/// the transports that can send one. QEMU closes its descriptor afterwards, even if the call
/// fails or is cancelled.
///
/// #SpiceQmpPort:command-timeout is the deadline for the whole call.
///
/// ```c
/// static void
/// on_screenshot (GObject *machine, GAsyncResult *result, gpointer window)
/// {
///     g_autoptr (GError) error = NULL;
///     g_autoptr (GBytes) png =
///         spice_qmp_machine_screenshot_finish (SPICE_QMP_MACHINE (machine), result, &error);
///
///     if (!png)
///         show_error (window, error->message);
///     else
///         save (window, png);
/// }
///
/// spice_qmp_machine_screenshot_async (machine, NULL, 0, NULL, on_screenshot, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_screenshot_async(
    machine: *mut SpiceQmpMachine,
    device: *const c_char,
    head: c_uint,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Screenshot, cancellable, callback, user_data) };
    no_panic("spice_qmp_machine_screenshot_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_MACHINE(machine));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MACHINE(machine));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: (device.is_null() || g_utf8_validate(device)));
        // SAFETY: it was found to be a SpiceQmpMachine.
        let machine = unsafe { borrow(machine) };
        let mut shot = machine.screenshot();
        if !device.is_null() {
            // SAFETY: it was found to be a string.
            shot = shot.device(&unsafe { CStr::from_ptr(device) }.to_string_lossy());
        }
        if head != 0 {
            shot = shot.head(head);
        }
        caller.future_of(
            machine.upcast_ref(),
            &machine.main_context(),
            shot.into_future(),
        );
    });
}

/// spice_qmp_machine_screenshot_finish:
/// @machine: a #SpiceQmpMachine
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_machine_screenshot_async(). The errors are those of
/// spice_qmp_port_execute_full_finish(); %SPICE_QMP_ERROR_NOT_SUPPORTED if file
/// descriptors cannot be sent; %SPICE_QMP_ERROR_PROTOCOL for anything but a PNG file of at
/// most 64 MiB.
///
/// Returns: (transfer full): a PNG file, or %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_machine_screenshot_finish(
    machine: *mut SpiceQmpMachine,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut GBytes {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::Screenshot, machine.cast(), result, error) }
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
pub(crate) fn SPICE_IS_QMP_MACHINE(machine: *mut SpiceQmpMachine) -> bool {
    is_a(machine.cast(), Machine::static_type())
}

/// Whether this thread created the port of the machine, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
pub(crate) fn IS_THREAD_OF_MACHINE(machine: *mut SpiceQmpMachine) -> bool {
    // SAFETY: it is a live SpiceQmpMachine; any thread may ask.
    unsafe { borrow(machine) }.is_on_its_thread()
}

/// # Safety
///
/// `machine` is a live `SpiceQmpMachine`, and stays so while the result is used.
pub(crate) unsafe fn borrow(machine: *mut SpiceQmpMachine) -> Borrowed<Machine> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(machine.cast::<<Machine as ObjectType>::GlibType>()) }
}
