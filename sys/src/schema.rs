// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpSchema`

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use glib::ffi::{GFALSE, GType, gboolean};
use glib::prelude::*;
use glib::translate::{Borrowed, FromGlibPtrBorrow, GlibPtrDefault, IntoGlib};
use spice_qmp::Schema;

use crate::guard::{g_return_if_fail, g_return_val_if_fail, g_utf8_validate, no_panic};

/// SpiceQmpSchema:
///
/// The names of the commands of a QEMU, and of their arguments: see
/// spice_qmp_machine_load_schema_async(). It is immutable and may be used from any thread.
///
/// ```c
/// if (spice_qmp_schema_has_argument (schema, "screendump", "format"))
///     offer_screenshots (window);
/// ```
///
/// Since: 0.2
pub struct SpiceQmpSchema(());

/// spice_qmp_schema_get_type:
///
/// Returns: the #GType of #SpiceQmpSchema
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_schema_get_type() -> GType {
    Schema::static_type().into_glib()
}

/// spice_qmp_schema_ref:
/// @schema: a #SpiceQmpSchema
///
/// Takes a reference to @schema, from any thread.
///
/// Returns: (transfer full): the same @schema
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_schema_ref(schema: *mut SpiceQmpSchema) -> *mut SpiceQmpSchema {
    no_panic("spice_qmp_schema_ref", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_schema_ref: !schema.is_null(), null_mut());
        let type_ = Schema::static_type().into_glib();
        // SAFETY: `schema` is a live boxed `Schema`.
        unsafe { glib::gobject_ffi::g_boxed_copy(type_, schema.cast()).cast() }
    })
}

/// spice_qmp_schema_unref:
/// @schema: (transfer full): a #SpiceQmpSchema
///
/// Releases a reference, from any thread. Releasing the last one frees @schema.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_schema_unref(schema: *mut SpiceQmpSchema) {
    no_panic("spice_qmp_schema_unref", (), || {
        g_return_if_fail!(spice_qmp_schema_unref: !schema.is_null());
        let type_ = Schema::static_type().into_glib();
        // SAFETY: the caller gives up its reference to a boxed `Schema`.
        unsafe { glib::gobject_ffi::g_boxed_free(type_, schema.cast()) }
    });
}

/// spice_qmp_schema_has_command:
/// @schema: a #SpiceQmpSchema
/// @command: the name of a command, such as `screendump`
///
/// Whether QEMU has a command.
///
/// Returns: %TRUE if it does
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_schema_has_command(
    schema: *const SpiceQmpSchema,
    command: *const c_char,
) -> gboolean {
    no_panic("spice_qmp_schema_has_command", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_schema_has_command: !schema.is_null(), GFALSE);
        g_return_val_if_fail!(spice_qmp_schema_has_command: g_utf8_validate(command), GFALSE);
        // SAFETY: both were checked.
        let (schema, command) = unsafe { (borrow(schema), CStr::from_ptr(command)) };
        schema.has_command(&command.to_string_lossy()).into_glib()
    })
}

/// spice_qmp_schema_has_argument:
/// @schema: a #SpiceQmpSchema
/// @command: the name of a command, such as `screendump`
/// @argument: the name of an argument, such as `format`
///
/// Whether QEMU has a command with an argument. It may accept the argument only together
/// with some value of another one: `blockdev-add` accepts `filename` with some drivers.
///
/// Returns: %TRUE if it does
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_schema_has_argument(
    schema: *const SpiceQmpSchema,
    command: *const c_char,
    argument: *const c_char,
) -> gboolean {
    no_panic("spice_qmp_schema_has_argument", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_schema_has_argument: !schema.is_null(), GFALSE);
        g_return_val_if_fail!(spice_qmp_schema_has_argument: g_utf8_validate(command), GFALSE);
        g_return_val_if_fail!(spice_qmp_schema_has_argument: g_utf8_validate(argument), GFALSE);
        // SAFETY: all were checked.
        let (schema, command, argument) = unsafe {
            (
                borrow(schema),
                CStr::from_ptr(command),
                CStr::from_ptr(argument),
            )
        };
        let (command, argument) = (command.to_string_lossy(), argument.to_string_lossy());
        schema.has_argument(&command, &argument).into_glib()
    })
}

/// spice_qmp_schema_list_commands:
/// @schema: a #SpiceQmpSchema
///
/// Lists the commands that QEMU has.
///
/// Returns: (transfer full) (array zero-terminated=1): their names, sorted
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_schema_list_commands(
    schema: *const SpiceQmpSchema,
) -> *mut *mut c_char {
    no_panic("spice_qmp_schema_list_commands", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_schema_list_commands: !schema.is_null(), null_mut());
        // SAFETY: `schema` is a live `SpiceQmpSchema`.
        let schema = unsafe { borrow(schema) };
        let names: glib::StrV = schema.list_commands().map(glib::GString::from).collect();
        names.into_raw()
    })
}

/// # Safety
///
/// `schema` is a live `SpiceQmpSchema`, and stays so while the result is used.
unsafe fn borrow(schema: *const SpiceQmpSchema) -> Borrowed<Schema> {
    let schema: <Schema as GlibPtrDefault>::GlibType = schema.cast_mut().cast();
    // SAFETY: a `SpiceQmpSchema *` is the pointer of a boxed `Schema`.
    unsafe { FromGlibPtrBorrow::from_glib_borrow(schema) }
}
