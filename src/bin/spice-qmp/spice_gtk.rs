// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads spice-gtk for SPICE addresses only: it and the fifty libraries that it
//! needs take 10 ms at each start, which is three times as long as everything else.
//!
//! The library calls these functions. Because the tool defines them itself, the linker does
//! not add a dependency on spice-gtk.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, GList, GType, gboolean, gpointer};
use spice_client_glib_sys::{SpiceChannel, SpicePortChannel, SpiceSession};

use crate::failure::{Failure, Kind};

/// The library, with the version of the ABI that `spice-client-glib-sys` describes.
const NAME: &CStr = c"libspice-client-glib-2.0.so.8";

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// Loads spice-gtk, before anything of SPICE is used.
pub(crate) fn load() -> Result<(), Failure> {
    if FUNCTIONS.get().is_none() {
        // No other thread can have done it: the tool has only one.
        let _ = FUNCTIONS.set(Functions::find()?);
    }
    Ok(())
}

macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        /// The addresses of the functions.
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Functions {
            fn find() -> Result<Self, Failure> {
                let library = Library::open()?;
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let address = library.address_of(name)?;
                        // SAFETY: spice-gtk's function of this name has the signature that
                        // spice-client-glib-sys declares, as the one below.
                        unsafe { std::mem::transmute::<
                            *mut c_void,
                            unsafe extern "C" fn($($type),*) $(-> $result)?,
                        >(address) }
                    },)*
                })
            }
        }

        $(
            functions!(@define $name ($($argument: $type),*) $(-> $result)?);
        )*

        /// The declarations are the ones that the library was compiled with.
        const _: () = {
            $(let _: unsafe extern "C" fn($($type),*) $(-> $result)? =
                spice_client_glib_sys::$name;)*
        };
    };
    // Until spice-gtk is loaded, the port's property `channel`, which is NULL then, has
    // the type of all objects.
    (@define spice_port_channel_get_type () -> $result:ty) => {
        #[unsafe(no_mangle)]
        extern "C" fn spice_port_channel_get_type() -> $result {
            match FUNCTIONS.get() {
                // SAFETY: it has no preconditions.
                Some(functions) => unsafe { (functions.spice_port_channel_get_type)() },
                None => glib::gobject_ffi::G_TYPE_OBJECT,
            }
        }
    };
    (@define $name:ident ($($argument:ident: $type:ty),*) $(-> $result:ty)?) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            let functions = FUNCTIONS.get().expect("spice-gtk is loaded before it is used");
            // SAFETY: as for spice-gtk's function, whose preconditions the caller ensures.
            unsafe { (functions.$name)($($argument),*) }
        }
    };
}

functions! {
    fn spice_channel_connect(channel: *mut SpiceChannel) -> gboolean;
    fn spice_channel_get_error(channel: *mut SpiceChannel) -> *const GError;
    fn spice_channel_get_type() -> GType;
    fn spice_port_channel_get_type() -> GType;
    fn spice_port_channel_write_async(
        channel: *mut SpicePortChannel,
        bytes: *mut u8,
        count: usize,
        cancellable: *mut GCancellable,
        callback: GAsyncReadyCallback,
        data: gpointer
    );
    fn spice_port_channel_write_finish(
        channel: *mut SpicePortChannel,
        result: *mut GAsyncResult,
        error: *mut *mut GError
    ) -> isize;
    fn spice_session_connect(session: *mut SpiceSession) -> gboolean;
    fn spice_session_disconnect(session: *mut SpiceSession);
    fn spice_session_get_channels(session: *mut SpiceSession) -> *mut GList;
    fn spice_session_get_type() -> GType;
    fn spice_session_new() -> *mut SpiceSession;
}

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

/// Functions are resolved when they are first called.
const RTLD_LAZY: c_int = 1;

/// An open library, which stays open: it has registered GObject types.
struct Library(*mut c_void);

impl Library {
    fn open() -> Result<Self, Failure> {
        // SAFETY: the name ends with a NUL. Code that runs on loading is trusted like linked code.
        let library = unsafe { dlopen(NAME.as_ptr(), RTLD_LAZY) };
        if library.is_null() {
            return Err(missing());
        }
        Ok(Self(library))
    }

    /// The address of the function with this name, which ends with a NUL.
    fn address_of(&self, name: &str) -> Result<*mut c_void, Failure> {
        let name = CStr::from_bytes_with_nul(name.as_bytes()).map_err(|_| missing())?;
        // SAFETY: the library is open, and the name ends with a NUL.
        let address = unsafe { dlsym(self.0, name.as_ptr()) };
        if address.is_null() {
            return Err(missing());
        }
        Ok(address)
    }
}

/// The error of `dlopen` or `dlsym`.
fn missing() -> Failure {
    // SAFETY: it has no preconditions.
    let error = unsafe { dlerror() };
    let text = if error.is_null() {
        NAME.to_string_lossy()
    } else {
        // SAFETY: the text ends with a NUL and stays until the next call.
        unsafe { CStr::from_ptr(error) }.to_string_lossy()
    };
    Failure::new(Kind::Connection, format!("SPICE needs spice-gtk: {text}"))
        .hint("install libspice-client-glib-2.0, or use a QMP socket: unix:/path or tcp:host:port")
}
