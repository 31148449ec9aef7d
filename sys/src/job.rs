// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpJob`

use std::ffi::c_char;
use std::future::Future;
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, GType, gboolean, gpointer};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use spice_qmp::{Error, Job};

use crate::guard::{g_return_val_if_fail, is_a, no_panic};
use crate::task::{Caller, Operation, finish_boolean, g_task_return_if_fail};

pub struct SpiceQmpJob(());

/// SpiceQmpJobProgress:
/// @job: the job, which is running
/// @user_data: the data that was passed with the function
///
/// The type of a function that is called when a job makes progress: see
/// spice_qmp_machine_run_job_async().
///
/// Since: 0.2
pub type SpiceQmpJobProgress =
    Option<unsafe extern "C" fn(job: *mut SpiceQmpJob, user_data: gpointer)>;

/// spice_qmp_job_get_type:
///
/// Returns: the #GType of #SpiceQmpJob
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_job_get_type() -> GType {
    Job::static_type().into_glib()
}

/// spice_qmp_job_dup_id: (get-property id)
/// @job: a #SpiceQmpJob
///
/// The id of the job in QEMU's commands: the property #SpiceQmpJob:id.
///
/// Returns: (transfer full): the id
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_dup_id(job: *mut SpiceQmpJob) -> *mut c_char {
    no_panic("spice_qmp_job_dup_id", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_job_dup_id: SPICE_IS_QMP_JOB(job), null_mut());
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.id().to_glib_full()
    })
}

/// spice_qmp_job_dup_kind: (get-property kind)
/// @job: a #SpiceQmpJob
///
/// The kind of the job: the property #SpiceQmpJob:kind.
///
/// Returns: (transfer full): the kind, such as `backup`
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_dup_kind(job: *mut SpiceQmpJob) -> *mut c_char {
    no_panic("spice_qmp_job_dup_kind", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_job_dup_kind: SPICE_IS_QMP_JOB(job), null_mut());
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.kind().to_glib_full()
    })
}

/// spice_qmp_job_dup_status: (get-property status)
/// @job: a #SpiceQmpJob
///
/// The status of the job: the property #SpiceQmpJob:status.
///
/// Returns: (transfer full): the status, such as `running`
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_dup_status(job: *mut SpiceQmpJob) -> *mut c_char {
    no_panic("spice_qmp_job_dup_status", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_job_dup_status: SPICE_IS_QMP_JOB(job), null_mut());
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.status().to_glib_full()
    })
}

/// spice_qmp_job_get_progress: (get-property progress)
/// @job: a #SpiceQmpJob
///
/// How much of the job is done: the property #SpiceQmpJob:progress.
///
/// Returns: a number from 0 to 1
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_get_progress(job: *mut SpiceQmpJob) -> f64 {
    no_panic("spice_qmp_job_get_progress", 0.0, || {
        g_return_val_if_fail!(spice_qmp_job_get_progress: SPICE_IS_QMP_JOB(job), 0.0);
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.progress()
    })
}

/// spice_qmp_job_get_current: (get-property current)
/// @job: a #SpiceQmpJob
///
/// The work that is done, out of spice_qmp_job_get_total(): the property #SpiceQmpJob:current.
///
/// Returns: a number, usually of bytes
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_get_current(job: *mut SpiceQmpJob) -> u64 {
    no_panic("spice_qmp_job_get_current", 0, || {
        g_return_val_if_fail!(spice_qmp_job_get_current: SPICE_IS_QMP_JOB(job), 0);
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.current()
    })
}

/// spice_qmp_job_get_total: (get-property total)
/// @job: a #SpiceQmpJob
///
/// The work that there is to do, as far as QEMU knows: the property #SpiceQmpJob:total.
///
/// Returns: a number, usually of bytes, which may grow
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_get_total(job: *mut SpiceQmpJob) -> u64 {
    no_panic("spice_qmp_job_get_total", 0, || {
        g_return_val_if_fail!(spice_qmp_job_get_total: SPICE_IS_QMP_JOB(job), 0);
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.total()
    })
}

/// spice_qmp_job_dup_error: (get-property error)
/// @job: a #SpiceQmpJob
///
/// Why the job failed: the property #SpiceQmpJob:error.
///
/// Returns: (transfer full) (nullable): QEMU's message, or %NULL if it has not failed
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_dup_error(job: *mut SpiceQmpJob) -> *mut c_char {
    no_panic("spice_qmp_job_dup_error", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_job_dup_error: SPICE_IS_QMP_JOB(job), null_mut());
        // SAFETY: it was found to be a SpiceQmpJob.
        unsafe { borrow(job) }.error().to_glib_full()
    })
}

/// spice_qmp_job_cancel_async:
/// @job: a #SpiceQmpJob
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Cancels the job. It ends later: follow #SpiceQmpJob:status.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_cancel_async(
    job: *mut SpiceQmpJob,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::JobCancel, cancellable, callback, user_data) };
    no_panic("spice_qmp_job_cancel_async", (), || {
        // SAFETY: C passes a job or NULL.
        unsafe { control(caller, job, Job::cancel) }
    });
}

/// spice_qmp_job_cancel_finish:
/// @job: a #SpiceQmpJob
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_job_cancel_async(). The errors are those of
/// spice_qmp_port_execute_finish().
///
/// Returns: %TRUE if QEMU has accepted the command
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_cancel_finish(
    job: *mut SpiceQmpJob,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::JobCancel, job.cast(), result, error) }
}

/// spice_qmp_job_pause_async:
/// @job: a #SpiceQmpJob
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Pauses the job until spice_qmp_job_resume_async() is called. A migration cannot be paused.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_pause_async(
    job: *mut SpiceQmpJob,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::JobPause, cancellable, callback, user_data) };
    no_panic("spice_qmp_job_pause_async", (), || {
        // SAFETY: C passes a job or NULL.
        unsafe { control(caller, job, Job::pause) }
    });
}

/// spice_qmp_job_pause_finish:
/// @job: a #SpiceQmpJob
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_job_pause_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED for a
/// migration.
///
/// Returns: %TRUE if QEMU has accepted the command
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_pause_finish(
    job: *mut SpiceQmpJob,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::JobPause, job.cast(), result, error) }
}

/// spice_qmp_job_resume_async:
/// @job: a #SpiceQmpJob
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Resumes a job that has been paused, by a client or by an error.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_resume_async(
    job: *mut SpiceQmpJob,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::JobResume, cancellable, callback, user_data) };
    no_panic("spice_qmp_job_resume_async", (), || {
        // SAFETY: C passes a job or NULL.
        unsafe { control(caller, job, Job::resume) }
    });
}

/// spice_qmp_job_resume_finish:
/// @job: a #SpiceQmpJob
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_job_resume_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED for a
/// migration.
///
/// Returns: %TRUE if QEMU has accepted the command
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_resume_finish(
    job: *mut SpiceQmpJob,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::JobResume, job.cast(), result, error) }
}

/// spice_qmp_job_complete_async:
/// @job: a #SpiceQmpJob
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Completes a job whose #SpiceQmpJob:status is `ready`, such as a mirror: the machine
/// uses the copy from then on.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_complete_async(
    job: *mut SpiceQmpJob,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::JobComplete, cancellable, callback, user_data) };
    no_panic("spice_qmp_job_complete_async", (), || {
        // SAFETY: C passes a job or NULL.
        unsafe { control(caller, job, Job::complete) }
    });
}

/// spice_qmp_job_complete_finish:
/// @job: a #SpiceQmpJob
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_job_complete_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED for a
/// migration.
///
/// Returns: %TRUE if QEMU has accepted the command
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_complete_finish(
    job: *mut SpiceQmpJob,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::JobComplete, job.cast(), result, error) }
}

/// spice_qmp_job_finalize_async:
/// @job: a #SpiceQmpJob
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Finalizes a job whose #SpiceQmpJob:status is, and stays, `pending`, because it was
/// started with `auto-finalize` off: what it has done takes effect.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_finalize_async(
    job: *mut SpiceQmpJob,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::JobFinalize, cancellable, callback, user_data) };
    no_panic("spice_qmp_job_finalize_async", (), || {
        // SAFETY: C passes a job or NULL.
        unsafe { control(caller, job, Job::finalize) }
    });
}

/// spice_qmp_job_finalize_finish:
/// @job: a #SpiceQmpJob
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_job_finalize_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED for a
/// migration.
///
/// Returns: %TRUE if QEMU has accepted the command
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_finalize_finish(
    job: *mut SpiceQmpJob,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::JobFinalize, job.cast(), result, error) }
}

/// spice_qmp_job_dismiss_async:
/// @job: a #SpiceQmpJob
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Makes QEMU forget a job that is, and stays, `concluded`.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_dismiss_async(
    job: *mut SpiceQmpJob,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::JobDismiss, cancellable, callback, user_data) };
    no_panic("spice_qmp_job_dismiss_async", (), || {
        // SAFETY: C passes a job or NULL.
        unsafe { control(caller, job, Job::dismiss) }
    });
}

/// spice_qmp_job_dismiss_finish:
/// @job: a #SpiceQmpJob
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_job_dismiss_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED for a
/// migration.
///
/// Returns: %TRUE if QEMU has accepted the command
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_job_dismiss_finish(
    job: *mut SpiceQmpJob,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::JobDismiss, job.cast(), result, error) }
}

/// Executes a command for a job.
///
/// # Safety
///
/// `job` is an object or NULL.
unsafe fn control<F>(caller: Caller, job: *mut SpiceQmpJob, command: fn(&Job) -> F)
where
    F: Future<Output = Result<(), Error>> + 'static,
{
    g_task_return_if_fail!(caller: SPICE_IS_QMP_JOB(job));
    g_task_return_if_fail!(caller: IS_THREAD_OF_JOB(job));
    g_task_return_if_fail!(caller: caller.cancellable_fits());
    // SAFETY: it was found to be a SpiceQmpJob.
    let job = unsafe { borrow(job) };
    caller.future_of(job.upcast_ref(), &job.main_context(), command(&job));
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_JOB(job: *mut SpiceQmpJob) -> bool {
    is_a(job.cast(), Job::static_type())
}

/// Whether this thread created the port of the job, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_THREAD_OF_JOB(job: *mut SpiceQmpJob) -> bool {
    // SAFETY: it is a live SpiceQmpJob; any thread may ask.
    unsafe { borrow(job) }.is_on_its_thread()
}

/// # Safety
///
/// `job` is a live `SpiceQmpJob`, and stays so while the result is used.
unsafe fn borrow(job: *mut SpiceQmpJob) -> Borrowed<Job> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(job.cast::<<Job as ObjectType>::GlibType>()) }
}
