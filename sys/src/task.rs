// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asynchronous calls for C: the only file that uses `GTask`.

use std::cell::Cell;
use std::ffi::{c_char, c_uint};
use std::future::Future;
use std::ptr::null_mut;
use std::time::Duration;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable, GTask};
use gio::prelude::*;
use glib::ffi::{GError, GFALSE, GTRUE, gboolean, gpointer};
use glib::gobject_ffi::GObject;
use glib::translate::{IntoGlib, IntoGlibPtr, ToGlibPtr, from_glib_none};
use spice_qmp::{CallOptions, Error, Event, QmpPort, Schema, Status, UsageError, WaitId, spawn_on};

use crate::cancelling::Cancelling;
use crate::guard::{critical, no_panic};

/// The kind of an asynchronous call; marks its result, so that only its own `_finish`
/// function accepts it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    VmAction,
    QueryStatus,
    Execute,
    ExecuteOob,
    ExecuteVariant,
    ExecuteFull,
    Open,
    #[cfg(feature = "spice")]
    Find,
    #[cfg(feature = "spice")]
    FindFull,
    FindOnBus,
    #[cfg(feature = "spice")]
    PortNames,
    WaitReady,
    WaitReadyFull,
    Close,
    WaitEvent,
    WaitStatus,
    RunJob,
    JobCancel,
    JobPause,
    JobResume,
    JobComplete,
    JobDismiss,
    JobFinalize,
    Unplug,
    LoadSchema,
    Screenshot,
    Insert,
    InsertFd,
    Eject,
    ConnectorOpen,
    SaveSnapshot,
    LoadSnapshot,
    DeleteSnapshot,
}

impl Operation {
    /// The common part of its functions' names.
    fn name(self) -> &'static str {
        match self {
            Self::VmAction => "spice_qmp_port_vm_action",
            Self::QueryStatus => "spice_qmp_port_query_status",
            Self::Execute => "spice_qmp_port_execute",
            Self::ExecuteOob => "spice_qmp_port_execute_oob",
            Self::ExecuteVariant => "spice_qmp_port_execute_variant",
            Self::ExecuteFull => "spice_qmp_port_execute_full",
            Self::Open => "spice_qmp_port_open",
            #[cfg(feature = "spice")]
            Self::Find => "spice_qmp_port_find",
            #[cfg(feature = "spice")]
            Self::FindFull => "spice_qmp_port_find_full",
            Self::FindOnBus => "spice_qmp_port_find_on_bus",
            #[cfg(feature = "spice")]
            Self::PortNames => "spice_qmp_port_port_names",
            Self::WaitReady => "spice_qmp_port_wait_ready",
            Self::WaitReadyFull => "spice_qmp_port_wait_ready_full",
            Self::Close => "spice_qmp_port_close",
            Self::WaitEvent => "spice_qmp_port_wait_event",
            Self::WaitStatus => "spice_qmp_port_wait_status",
            Self::RunJob => "spice_qmp_machine_run_job",
            Self::JobCancel => "spice_qmp_job_cancel",
            Self::JobPause => "spice_qmp_job_pause",
            Self::JobResume => "spice_qmp_job_resume",
            Self::JobComplete => "spice_qmp_job_complete",
            Self::JobDismiss => "spice_qmp_job_dismiss",
            Self::JobFinalize => "spice_qmp_job_finalize",
            Self::Unplug => "spice_qmp_machine_unplug",
            Self::Screenshot => "spice_qmp_machine_screenshot",
            Self::SaveSnapshot => "spice_qmp_machine_save_snapshot",
            Self::LoadSnapshot => "spice_qmp_machine_load_snapshot",
            Self::DeleteSnapshot => "spice_qmp_machine_delete_snapshot",
            Self::LoadSchema => "spice_qmp_machine_load_schema",
            Self::ConnectorOpen => "spice_qmp_connector_open",
            Self::Insert => "spice_qmp_drive_insert",
            Self::InsertFd => "spice_qmp_drive_insert_fd",
            Self::Eject => "spice_qmp_drive_eject",
        }
    }

    /// A unique address, which tags its tasks.
    fn tag(self) -> gpointer {
        static TAGS: [u8; Operation::DeleteSnapshot as usize + 1] = [0; _];
        (&raw const TAGS[self as usize]).cast_mut().cast()
    }
}

/// The arguments that every `_async` function takes.
pub(crate) struct Caller {
    operation: Operation,
    cancellable: Option<gio::Cancellable>,
    cancellable_fits: bool,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
}

/// `g_return_if_fail` for `_async` functions: the callback, if any, also gets an error.
macro_rules! g_task_return_if_fail {
    ($caller:ident: $check:expr) => {
        if !$check {
            return $caller.refuse(stringify!($check));
        }
    };
}

pub(crate) use g_task_return_if_fail;

impl Caller {
    /// # Safety
    ///
    /// `cancellable` is NULL or an object, and `callback` accepts `user_data`.
    pub(crate) unsafe fn new(
        operation: Operation,
        cancellable: *mut GCancellable,
        callback: GAsyncReadyCallback,
        user_data: gpointer,
    ) -> Self {
        let fits = crate::guard::G_IS_CANCELLABLE(cancellable);
        Self {
            operation,
            // SAFETY: it was found to be a GCancellable.
            cancellable: fits.then(|| unsafe { from_glib_none(cancellable) }),
            cancellable_fits: fits || cancellable.is_null(),
            callback,
            user_data,
        }
    }

    /// Whether `cancellable` is NULL or a `GCancellable`.
    pub(crate) fn cancellable_fits(&self) -> bool {
        self.cancellable_fits
    }

    /// Whether there is no callback to call.
    pub(crate) fn is_alone(&self) -> bool {
        self.callback.is_none()
    }

    /// Ends an invalid call.
    pub(crate) fn refuse(self, check: &str) {
        let name = self.operation.name();
        critical(&format!("{name}_async"), check);
        self.fail(
            None,
            UsageError::InvalidArgument(format!("{name}_async: {check}").into()).into(),
        );
    }

    /// Ends the call with an error.
    pub(crate) fn fail(self, source: Option<&glib::Object>, error: Error) {
        if self.callback.is_some() {
            self.task(source).answer::<()>(Err(error));
        }
    }

    /// Executes a command on `port`, and returns its decoded reply to the caller.
    pub(crate) fn command<A: Answer + 'static>(
        self,
        port: &QmpPort,
        command: &str,
        arguments: Option<&str>,
        decode: fn(String) -> Result<A, Error>,
    ) {
        self.command_with(
            port,
            command,
            arguments,
            CallOptions::default(),
            None,
            decode,
        );
    }

    /// [`command`](Self::command) with options and file descriptors.
    pub(crate) fn command_with<A: Answer + 'static>(
        self,
        port: &QmpPort,
        command: &str,
        arguments: Option<&str>,
        options: CallOptions,
        fds: Option<gio::UnixFDList>,
        decode: fn(String) -> Result<A, Error>,
    ) {
        let name = self.operation.name();
        if self.callback.is_none() && self.cancellable.is_none() {
            port.execute_with_fds(command, arguments, options, fds, |_| ());
            return;
        }
        let cancellable = self.cancellable.clone();
        let task = self.task_of(port);
        if cancellable
            .as_ref()
            .is_some_and(CancellableExt::is_cancelled)
        {
            return task.answer::<A>(Err(Error::Cancelled(command.into())));
        }
        let cancelling = Cancelling::slot(cancellable.as_ref());
        let call = port.execute_with_fds(command, arguments, options, fds, {
            let cancelling = cancelling.clone();
            move |reply| {
                Cancelling::end(&cancelling);
                no_panic(name, (), || {
                    task.answer(reply.and_then(decode));
                });
            }
        });
        let cancel = move |port: &QmpPort| port.cancel(call);
        Cancelling::connect(&cancelling, cancellable, port, cancel);
    }

    /// Waits on `port`: `start` begins the wait with the callback that it is passed.
    pub(crate) fn wait(self, port: &QmpPort, start: impl FnOnce(&QmpPort, WaitEnd) -> WaitId) {
        let name = self.operation.name();
        let cancellable = self.cancellable.clone();
        let task = self.task_of(port);
        if cancellable
            .as_ref()
            .is_some_and(CancellableExt::is_cancelled)
        {
            return task.answer::<()>(Err(Error::Cancelled(name.into())));
        }
        let cancelling = Cancelling::slot(cancellable.as_ref());
        let wait = start(port, {
            let cancelling = cancelling.clone();
            Box::new(move |result| {
                Cancelling::end(&cancelling);
                no_panic(name, (), || task.answer(result));
            })
        });
        let cancel = move |port: &QmpPort| port.cancel_wait(wait, name);
        Cancelling::connect(&cancelling, cancellable, port, cancel);
    }

    /// Runs `future` on `context` and returns its result to the caller, or an error if the call
    /// is cancelled.
    pub(crate) fn future<A: Answer + 'static>(
        self,
        context: &glib::MainContext,
        future: impl Future<Output = Result<A, Error>> + 'static,
    ) {
        self.cancellable_future(context, None, future);
    }

    /// [`future`](Self::future) for a function of an object, which becomes the source object.
    pub(crate) fn future_of<A: Answer + 'static>(
        self,
        source: &glib::Object,
        context: &glib::MainContext,
        future: impl Future<Output = Result<A, Error>> + 'static,
    ) {
        self.cancellable_future(context, Some(source), future);
    }

    fn cancellable_future<A: Answer + 'static>(
        self,
        context: &glib::MainContext,
        source: Option<&glib::Object>,
        future: impl Future<Output = Result<A, Error>> + 'static,
    ) {
        let name = self.operation.name();
        let Some(cancellable) = self.cancellable.clone() else {
            return self.run(context, source, future);
        };
        self.run(context, source, async move {
            gio::CancellableFuture::new(future, cancellable)
                .await
                .unwrap_or_else(|_| Err(Error::Cancelled(name.into())))
        });
    }

    /// [`future`](Self::future) for one that handles being [`cancelled`](Self::cancelled)
    /// itself.
    pub(crate) fn future_to_its_end<A: Answer + 'static>(
        self,
        context: &glib::MainContext,
        source: Option<&glib::Object>,
        future: impl Future<Output = Result<A, Error>> + 'static,
    ) {
        self.run(context, source, future);
    }

    fn run<A: Answer + 'static>(
        self,
        context: &glib::MainContext,
        source: Option<&glib::Object>,
        future: impl Future<Output = Result<A, Error>> + 'static,
    ) {
        let name = self.operation.name();
        let task = self.task_on(context, source);
        spawn_on(context, async move {
            let answer = future.await;
            no_panic(name, (), || task.answer(answer));
        });
    }

    /// Ends when the caller cancels the call.
    pub(crate) fn cancelled(&self) -> impl Future<Output = ()> + use<> {
        let cancellable = self.cancellable.clone();
        async move {
            match cancellable {
                Some(cancellable) => cancellable.future().await,
                None => std::future::pending().await,
            }
        }
    }

    /// A task that ends on the main context of `port`, whatever is pushed now.
    fn task_of(self, port: &QmpPort) -> Task {
        self.task_on(&port.main_context(), Some(port.upcast_ref()))
    }

    fn task_on(self, context: &glib::MainContext, source: Option<&glib::Object>) -> Task {
        // Usually it is so, and pushing the context costs as much as the task.
        if glib::MainContext::ref_thread_default() == *context {
            return self.task(source);
        }
        let mut caller = Some(self);
        let task = context.with_thread_default(|| caller.take().map(|it| it.task(source)));
        match (task, caller) {
            (Ok(Some(task)), _) => task,
            // Another thread runs it: the check of the port's thread fails then.
            (_, Some(caller)) => caller.task(source),
            (_, None) => unreachable!("the caller was taken by what failed"),
        }
    }

    fn task(self, source: Option<&glib::Object>) -> Task {
        let source: *mut GObject = source.to_glib_none().0;
        // SAFETY: the source and the cancellable are live objects or NULL, and
        // the task takes references to them; the tag is a static's address.
        unsafe {
            let task = gio::ffi::g_task_new(
                source,
                self.cancellable.to_glib_none().0,
                self.callback,
                self.user_data,
            );
            gio::ffi::g_task_set_source_tag(task, self.operation.tag());
            Task {
                task,
                answered: Cell::new(false),
            }
        }
    }
}

/// A `GTask` that returns once: with an error if it is dropped before.
struct Task {
    task: *mut GTask,
    answered: Cell<bool>,
}

impl Task {
    fn answer<A: Answer>(self, answer: Result<A, Error>) {
        self.answered.set(true);
        match answer {
            Ok(answer) => answer.give(self.task),
            Err(error) => self.error(error.into()),
        }
    }

    fn error(&self, error: glib::Error) {
        // SAFETY: the task is live, and takes ownership of the error.
        unsafe { gio::ffi::g_task_return_error(self.task, error.into_glib_ptr()) }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.answered.get() {
            self.error(glib::Error::new(
                gio::IOErrorEnum::Failed,
                "the call was dropped: a bug in spice-qmp",
            ));
        }
        // SAFETY: this is the reference that `g_task_new` returned.
        unsafe { glib::gobject_ffi::g_object_unref(self.task.cast()) }
    }
}

/// A result for C.
pub(crate) trait Answer {
    /// Passes the result to a live task.
    fn give(self, task: *mut GTask);
}

impl Answer for () {
    fn give(self, task: *mut GTask) {
        // SAFETY: the task is live.
        unsafe { gio::ffi::g_task_return_boolean(task, GTRUE) }
    }
}

impl Answer for QmpPort {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn unref(port: gpointer) {
            // SAFETY: the task releases its reference to a SpiceQmpPort.
            unsafe { glib::gobject_ffi::g_object_unref(port.cast()) }
        }
        let port: *mut GObject = self.upcast::<glib::Object>().into_glib_ptr();
        // SAFETY: the task is live, and gets the reference with the function that releases it.
        unsafe {
            gio::ffi::g_task_return_pointer(task, port.cast(), Some(unref));
        }
    }
}

impl Answer for Status {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn unref(status: gpointer) {
            // Not by the exported function: spice-gtk's could be called in its place.
            // SAFETY: the task releases its reference to a boxed `Status`.
            unsafe {
                glib::gobject_ffi::g_boxed_free(Status::static_type().into_glib(), status);
            }
        }
        let status: <Status as glib::translate::GlibPtrDefault>::GlibType = self.into_glib_ptr();
        // SAFETY: the task is live, and gets the reference with the function that releases it.
        unsafe { gio::ffi::g_task_return_pointer(task, status.cast(), Some(unref)) }
    }
}

impl Answer for Event {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn unref(event: gpointer) {
            // SAFETY: the task releases its reference to a boxed `Event`.
            unsafe { glib::gobject_ffi::g_boxed_free(Event::static_type().into_glib(), event) }
        }
        let event: <Event as glib::translate::GlibPtrDefault>::GlibType = self.into_glib_ptr();
        // SAFETY: the task is live, and gets the reference with the function that releases it.
        unsafe { gio::ffi::g_task_return_pointer(task, event.cast(), Some(unref)) }
    }
}

impl Answer for Schema {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn unref(schema: gpointer) {
            // SAFETY: the task releases its reference to a boxed `Schema`.
            unsafe { glib::gobject_ffi::g_boxed_free(Schema::static_type().into_glib(), schema) }
        }
        let schema: <Schema as glib::translate::GlibPtrDefault>::GlibType = self.into_glib_ptr();
        // SAFETY: the task is live, and gets the reference with the function that releases it.
        unsafe { gio::ffi::g_task_return_pointer(task, schema.cast(), Some(unref)) }
    }
}

/// JSON text.
impl Answer for String {
    fn give(self, task: *mut GTask) {
        let text: *mut c_char = self.to_glib_full();
        // SAFETY: the task is live, and gets the string with the function that frees it.
        unsafe { gio::ffi::g_task_return_pointer(task, text.cast(), Some(glib::ffi::g_free)) }
    }
}

/// An array of strings.
#[cfg(feature = "spice")]
impl Answer for Vec<String> {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn free(strings: gpointer) {
            // SAFETY: the task frees its array of strings.
            unsafe { glib::ffi::g_strfreev(strings.cast()) }
        }
        let strings = glib::StrV::from(self).into_raw();
        // SAFETY: the task is live, and gets the array with the function that frees it.
        unsafe { gio::ffi::g_task_return_pointer(task, strings.cast(), Some(free)) }
    }
}

impl Answer for glib::Variant {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn unref(variant: gpointer) {
            // SAFETY: the task releases its reference to a GVariant.
            unsafe { glib::ffi::g_variant_unref(variant.cast()) }
        }
        let variant: *mut glib::ffi::GVariant = self.into_glib_ptr();
        // SAFETY: the task is live, and gets the reference with the function that releases it.
        unsafe { gio::ffi::g_task_return_pointer(task, variant.cast(), Some(unref)) }
    }
}

impl Answer for glib::Bytes {
    fn give(self, task: *mut GTask) {
        unsafe extern "C" fn unref(bytes: gpointer) {
            // SAFETY: the task releases its reference to a GBytes.
            unsafe { glib::ffi::g_bytes_unref(bytes.cast()) }
        }
        let bytes: *mut glib::ffi::GBytes = self.into_glib_ptr();
        // SAFETY: the task is live, and gets the reference with the function that releases it.
        unsafe { gio::ffi::g_task_return_pointer(task, bytes.cast(), Some(unref)) }
    }
}

/// A deadline from C: 0 means none.
pub(crate) fn timeout_of(millis: c_uint) -> Duration {
    match millis {
        0 => Duration::MAX,
        millis => Duration::from_millis(millis.into()),
    }
}

/// Called when a wait ends.
pub(crate) type WaitEnd = Box<dyn FnOnce(Result<(), Error>)>;

/// Takes a boolean result from its task.
///
/// # Safety
///
/// `result` is NULL or a `GAsyncResult`; `error` is NULL or a location for an error.
pub(crate) unsafe fn finish_boolean(
    operation: Operation,
    source: gpointer,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: as the caller promises; a valid result is a GTask.
    unsafe {
        if !is_valid(operation, source, result, error) {
            return GFALSE;
        }
        gio::ffi::g_task_propagate_boolean(result.cast(), error)
    }
}

/// Takes a pointer from its task.
///
/// # Safety
///
/// As for [`finish_boolean`].
pub(crate) unsafe fn finish_pointer<T>(
    operation: Operation,
    source: gpointer,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut T {
    // SAFETY: as the caller promises; a valid result is a GTask.
    unsafe {
        if !is_valid(operation, source, result, error) {
            return null_mut();
        }
        gio::ffi::g_task_propagate_pointer(result.cast(), error).cast()
    }
}

/// Whether `result` is one of `operation` on `source`. If not, logs a critical and sets
/// `error`.
unsafe fn is_valid(
    operation: Operation,
    source: gpointer,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> bool {
    // SAFETY: `result` is NULL or a GAsyncResult; the source is only compared.
    let valid = unsafe {
        gio::ffi::g_task_is_valid(result.cast(), source.cast()) != GFALSE
            && gio::ffi::g_async_result_is_tagged(result, operation.tag()) != GFALSE
    };
    if !valid {
        let function = format!("{}_finish", operation.name());
        let check = "g_task_is_valid(result, source)";
        critical(&function, check);
        let refused = UsageError::InvalidArgument(format!("{function}: {check}").into());
        let refused: glib::Error = Error::from(refused).into();
        // SAFETY: `error` is NULL or takes ownership of the error.
        unsafe { glib::ffi::g_propagate_error(error, refused.into_glib_ptr()) };
    }
    valid
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    unsafe extern "C" fn keep(_: *mut GObject, result: *mut GAsyncResult, kept: gpointer) {
        let mut error = null_mut();
        // SAFETY: the test passes a boxed slot, once, and the result is a task's.
        unsafe {
            let kept = Box::from_raw(kept.cast::<Rc<RefCell<Option<glib::Error>>>>());
            gio::ffi::g_task_propagate_boolean(result.cast(), &raw mut error);
            kept.replace(Some(glib::translate::from_glib_full(error)));
        }
    }

    #[test]
    fn a_call_that_panics_gets_an_error() {
        let kept = Rc::new(RefCell::new(None::<glib::Error>));
        let data = Box::into_raw(Box::new(kept.clone())).cast();
        // SAFETY: there is no cancellable, and `keep` takes the data.
        let caller = unsafe { Caller::new(Operation::Close, null_mut(), Some(keep), data) };
        no_panic("spice_qmp_test", (), || {
            let _task = caller.task(None);
            panic!("in the middle");
        });
        assert!(kept.borrow().is_none(), "not from within the call");
        while kept.borrow().is_none() {
            glib::MainContext::default().iteration(true);
        }
        let error = kept.take().unwrap();
        assert!(error.matches(gio::IOErrorEnum::Failed), "{error}");
    }

    #[test]
    fn a_callback_may_run_a_main_loop_that_ends_another_call() {
        unsafe extern "C" fn run(_: *mut GObject, _: *mut GAsyncResult, ended: gpointer) {
            // SAFETY: the test passes a counter, which it keeps.
            let ended = unsafe { &*ended.cast::<Cell<u32>>() };
            let before = ended.get();
            ended.set(before + 1);
            while before == 0 && ended.get() < 2 {
                glib::MainContext::ref_thread_default().iteration(true);
            }
        }
        let ended = Cell::new(0_u32);
        let context = glib::MainContext::new();
        let both = context.with_thread_default(|| {
            for _ in 0..2 {
                let data = (&raw const ended).cast_mut().cast();
                // SAFETY: there is no cancellable, and `run` takes the counter.
                let caller = unsafe { Caller::new(Operation::Close, null_mut(), Some(run), data) };
                // The first future runs until the second has begun.
                let later = glib::timeout_future(std::time::Duration::from_millis(1));
                caller.future(&context, async move {
                    later.await;
                    Ok(())
                });
            }
            while ended.get() < 2 {
                context.iteration(true);
            }
        });
        both.expect("the context is new");
    }

    #[test]
    fn operations_have_tags_of_their_own() {
        assert_ne!(Operation::VmAction.tag(), Operation::Close.tag());
        assert_eq!(Operation::Open.tag(), Operation::Open.tag());
    }
}
