// SPDX-License-Identifier: MIT OR Apache-2.0
//! GIO's asynchronous connects, reads, writes and closes, and its socket sources: all
//! with callbacks that are bound to a thread.
//!
//! The `gio` crate's own versions abort the process if another thread runs or frees the
//! main context that they were started on. Here each function returns whether it could
//! start: it cannot if another thread runs the main context.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use glib::ffi::{GError, gboolean, gpointer};
use glib::gobject_ffi::GObject;
use glib::translate::{IntoGlib, ToGlibPtr, from_glib_full};

use crate::home::{Bound, Home};

/// What GIO borrows while an operation is under way.
struct Operation<F> {
    bytes: Vec<u8>,
    done: Bound<F>,
}

impl<F> Operation<F> {
    fn new(home: &Home, bytes: Vec<u8>, done: F) -> Self {
        let done = home.bind(done);
        Self { bytes, done }
    }
}

/// Reads once into `buffer`, and returns it with the number of bytes that were read.
pub(super) fn read<F>(
    home: &Home,
    stream: &gio::InputStream,
    buffer: Vec<u8>,
    priority: glib::Priority,
    cancellable: &gio::Cancellable,
    done: F,
) -> bool
where
    F: FnOnce(Vec<u8>, Result<usize, glib::Error>) + 'static,
{
    unsafe extern "C" fn finished<F>(
        stream: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        operation: gpointer,
    ) where
        F: FnOnce(Vec<u8>, Result<usize, glib::Error>) + 'static,
    {
        let mut error = null_mut();
        // SAFETY: GIO calls this once with the stream, the result of its read and the
        // box that was passed with it.
        let (operation, count) = unsafe {
            let count = gio::ffi::g_input_stream_read_finish(stream.cast(), result, &raw mut error);
            (Box::from_raw(operation.cast::<Operation<F>>()), count)
        };
        // SAFETY: the error is this call's, or NULL.
        let result = unsafe { checked(error) };
        if let Some(done) = operation.done.take() {
            done(
                operation.bytes,
                result.map(|()| usize::try_from(count).unwrap_or(0)),
            );
        }
    }
    let mut operation = Box::new(Operation::new(home, buffer, done));
    let (bytes, len) = (operation.bytes.as_mut_ptr(), operation.bytes.len());
    home.enter(|| {
        // SAFETY: the bytes live in the box, which lives until `finished`.
        unsafe {
            gio::ffi::g_input_stream_read_async(
                stream.to_glib_none().0,
                bytes,
                len,
                priority.into_glib(),
                cancellable.to_glib_none().0,
                Some(finished::<F>),
                Box::into_raw(operation).cast(),
            );
        }
    })
    .is_some()
}

/// Writes all of `bytes`.
pub(super) fn write_all<F>(
    home: &Home,
    stream: &gio::OutputStream,
    bytes: Vec<u8>,
    cancellable: &gio::Cancellable,
    done: F,
) -> bool
where
    F: FnOnce(Result<(), glib::Error>) + 'static,
{
    unsafe extern "C" fn finished<F>(
        stream: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        operation: gpointer,
    ) where
        F: FnOnce(Result<(), glib::Error>) + 'static,
    {
        let mut error = null_mut();
        // SAFETY: GIO calls this once with the stream, the result of its write and the
        // box that was passed with it.
        let operation = unsafe {
            gio::ffi::g_output_stream_write_all_finish(
                stream.cast(),
                result,
                null_mut(),
                &raw mut error,
            );
            Box::from_raw(operation.cast::<Operation<F>>())
        };
        // SAFETY: the error is this call's, or NULL.
        let result = unsafe { checked(error) };
        if let Some(done) = operation.done.take() {
            done(result);
        }
    }
    let operation = Box::new(Operation::new(home, bytes, done));
    let (bytes, len) = (operation.bytes.as_ptr(), operation.bytes.len());
    home.enter(|| {
        // SAFETY: the bytes live in the box, which lives until `finished`.
        unsafe {
            gio::ffi::g_output_stream_write_all_async(
                stream.to_glib_none().0,
                bytes.cast_mut(),
                len,
                glib::ffi::G_PRIORITY_DEFAULT,
                cancellable.to_glib_none().0,
                Some(finished::<F>),
                Box::into_raw(operation).cast(),
            );
        }
    })
    .is_some()
}

/// Closes a stream on which nothing is under way. Its failure does not matter.
pub(super) fn close<F>(home: &Home, stream: &gio::IOStream, done: F) -> bool
where
    F: FnOnce() + 'static,
{
    unsafe extern "C" fn finished<F>(
        stream: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        operation: gpointer,
    ) where
        F: FnOnce() + 'static,
    {
        // SAFETY: GIO calls this once with the stream, the result of its close and the
        // box that was passed with it.
        let operation = unsafe {
            gio::ffi::g_io_stream_close_finish(stream.cast(), result, null_mut());
            Box::from_raw(operation.cast::<Operation<F>>())
        };
        if let Some(done) = operation.done.take() {
            done();
        }
    }
    let operation = Box::new(Operation::new(home, Vec::new(), done));
    home.enter(|| {
        // SAFETY: the stream is live, and the box lives until `finished`.
        unsafe {
            gio::ffi::g_io_stream_close_async(
                stream.to_glib_none().0,
                glib::ffi::G_PRIORITY_DEFAULT,
                null_mut(),
                Some(finished::<F>),
                Box::into_raw(operation).cast(),
            );
        }
    })
    .is_some()
}

/// Connects to a server.
pub(crate) fn connect<F>(
    home: &Home,
    client: &gio::SocketClient,
    server: &gio::SocketConnectable,
    cancellable: &gio::Cancellable,
    done: F,
) -> bool
where
    F: FnOnce(Result<gio::SocketConnection, glib::Error>) + 'static,
{
    unsafe extern "C" fn finished<F>(
        client: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        operation: gpointer,
    ) where
        F: FnOnce(Result<gio::SocketConnection, glib::Error>) + 'static,
    {
        let mut error = null_mut();
        // SAFETY: GIO calls this once with the client, the result of its connecting and
        // the box that was passed with it. The connection is owned by the caller; it is
        // NULL if there is an error.
        let (operation, result) = unsafe {
            let connection =
                gio::ffi::g_socket_client_connect_finish(client.cast(), result, &raw mut error);
            let result = checked(error).map(|()| from_glib_full(connection));
            (Box::from_raw(operation.cast::<Operation<F>>()), result)
        };
        if let Some(done) = operation.done.take() {
            done(result);
        }
    }
    let operation = Box::new(Operation::new(home, Vec::new(), done));
    home.enter(|| {
        // SAFETY: the objects are live, and the box lives until `finished`.
        unsafe {
            gio::ffi::g_socket_client_connect_async(
                client.to_glib_none().0,
                server.to_glib_none().0,
                cancellable.to_glib_none().0,
                Some(finished::<F>),
                Box::into_raw(operation).cast(),
            );
        }
    })
    .is_some()
}

/// A source that calls `ready` from the main loop while the socket is ready for
/// `condition`, until it is destroyed or returns [`Break`](glib::ControlFlow::Break).
///
/// It may be called recursively, if it runs a main loop. Otherwise GLib would take it out
/// of the loop for each call, and wake the loop to put it back.
pub(super) fn watch<F>(
    home: &Home,
    socket: &gio::Socket,
    condition: glib::IOCondition,
    priority: glib::Priority,
    ready: F,
) -> glib::Source
where
    F: Fn() -> glib::ControlFlow + 'static,
{
    unsafe extern "C" fn called<F>(
        _socket: *mut gio::ffi::GSocket,
        _condition: glib::ffi::GIOCondition,
        ready: gpointer,
    ) -> gboolean
    where
        F: Fn() -> glib::ControlFlow + 'static,
    {
        // SAFETY: GLib calls this with the box that was passed with it, which lives
        // until `dropped`; nothing changes its contents.
        let ready = unsafe { &*ready.cast::<Bound<F>>() };
        let flow = ready
            .get()
            .map_or(glib::ControlFlow::Break, |ready| ready());
        flow.into_glib()
    }
    unsafe extern "C" fn dropped<F>(ready: gpointer) {
        // SAFETY: GLib calls this once, after the last call, with the box.
        drop(unsafe { Box::from_raw(ready.cast::<Bound<F>>()) });
    }
    let ready = Box::into_raw(Box::new(home.bind(ready)));
    // SAFETY: all objects are live, and the source is ours. GIO calls a socket's source
    // as a `GSocketSourceFunc`, which `called` is, and GLib the notify with the data.
    unsafe {
        let source = gio::ffi::g_socket_create_source(
            socket.to_glib_none().0,
            condition.into_glib(),
            null_mut(),
        );
        let called: unsafe extern "C" fn(_, _, _) -> _ = called::<F>;
        glib::ffi::g_source_set_callback(
            source,
            Some(std::mem::transmute::<
                unsafe extern "C" fn(
                    *mut gio::ffi::GSocket,
                    glib::ffi::GIOCondition,
                    gpointer,
                ) -> gboolean,
                unsafe extern "C" fn(gpointer) -> gboolean,
            >(called)),
            ready.cast(),
            Some(dropped::<F>),
        );
        glib::ffi::g_source_set_priority(source, priority.into_glib());
        glib::ffi::g_source_set_can_recurse(source, glib::ffi::GTRUE);
        glib::ffi::g_source_attach(source, home.context().to_glib_none().0);
        from_glib_full(source)
    }
}

/// The control message that sends `fds` with a message on a socket.
#[cfg(unix)]
pub(super) fn fd_message(fds: &gio::UnixFDList) -> gio::SocketControlMessage {
    // The `gio` crate does not bind it.
    unsafe extern "C" {
        fn g_unix_fd_message_new_with_fd_list(
            fds: *mut gio::ffi::GUnixFDList,
        ) -> *mut gio::ffi::GSocketControlMessage;
    }
    // SAFETY: the function has this signature, and is in the same library as all others here.
    // The list is live; the message takes a reference to it, and is ours.
    unsafe { from_glib_full(g_unix_fd_message_new_with_fd_list(fds.to_glib_none().0)) }
}

/// # Safety
///
/// `error` is NULL, or an error that the caller owns.
unsafe fn checked(error: *mut GError) -> Result<(), glib::Error> {
    if error.is_null() {
        Ok(())
    } else {
        // SAFETY: as the caller promises.
        Err(unsafe { from_glib_full(error) })
    }
}
