// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpRequest`
//!
//! Its contents never change, and any thread may read them; only the server's may answer.

use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};

use glib::ffi::{GError, GFALSE, GType, GVariant, gboolean};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow, from_glib_none};
use spice_qmp::qmp::Band;
use spice_qmp::{RequestObject, json_to_variant, variant_to_json};

use crate::error::worked;
use crate::guard::{g_return_val_if_fail, g_utf8_validate, is_a, no_panic};

pub struct SpiceQmpRequest(());

/// spice_qmp_request_get_type:
///
/// Returns: the #GType of #SpiceQmpRequest
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_request_get_type() -> GType {
    RequestObject::static_type().into_glib()
}

/// spice_qmp_request_get_command:
/// @request: a #SpiceQmpRequest
///
/// Gets the name of the command, which may be any text: the client chose it.
///
/// Returns: (transfer none): the name, such as `query-status`; it lives as long as @request
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_get_command(
    request: *mut SpiceQmpRequest,
) -> *const c_char {
    no_panic("spice_qmp_request_get_command", null(), || {
        g_return_val_if_fail!(spice_qmp_request_get_command: SPICE_IS_QMP_REQUEST(request), null());
        // SAFETY: it was found to be a SpiceQmpRequest.
        unsafe { borrow(request) }.command().as_ptr()
    })
}

/// spice_qmp_request_get_arguments:
/// @request: a #SpiceQmpRequest
///
/// Gets the arguments of the command as JSON text.
///
/// Returns: (transfer none) (nullable): the text of a JSON object, or %NULL if there are no
///   arguments; it lives as long as @request
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_get_arguments(
    request: *mut SpiceQmpRequest,
) -> *const c_char {
    no_panic("spice_qmp_request_get_arguments", null(), || {
        g_return_val_if_fail!(spice_qmp_request_get_arguments: SPICE_IS_QMP_REQUEST(request), null());
        // SAFETY: it was found to be a SpiceQmpRequest.
        let request = unsafe { borrow(request) };
        request.arguments().map_or(null(), glib::GStr::as_ptr)
    })
}

/// spice_qmp_request_get_arguments_variant:
/// @request: a #SpiceQmpRequest
///
/// Gets the arguments of the command as a #GVariant of the type `a{sv}`. The conversion is
/// described at spice_qmp_port_execute_variant_async().
///
/// Returns: (transfer full) (nullable): the arguments, or %NULL if there are none or they
///   cannot be converted: more than 1 MiB of JSON text, nested more than 60 levels deep, or
///   with a member twice. spice_qmp_request_get_arguments() returns them in either case.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_get_arguments_variant(
    request: *mut SpiceQmpRequest,
) -> *mut GVariant {
    no_panic(
        "spice_qmp_request_get_arguments_variant",
        null_mut(),
        || {
            g_return_val_if_fail!(spice_qmp_request_get_arguments_variant: SPICE_IS_QMP_REQUEST(request), null_mut());
            // SAFETY: it was found to be a SpiceQmpRequest.
            let request = unsafe { borrow(request) };
            let arguments = request.arguments().map(|text| json_to_variant(text));
            arguments.and_then(Result::ok).to_glib_full()
        },
    )
}

/// spice_qmp_request_get_id:
/// @request: a #SpiceQmpRequest
///
/// Gets the `id` of the request as JSON text. The answer has the same `id`, which need not be
/// unique among the requests of a client.
///
/// Returns: (transfer none) (nullable): the text of a JSON value, or %NULL if there is no
///   `id`; it lives as long as @request
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_get_id(request: *mut SpiceQmpRequest) -> *const c_char {
    no_panic("spice_qmp_request_get_id", null(), || {
        g_return_val_if_fail!(spice_qmp_request_get_id: SPICE_IS_QMP_REQUEST(request), null());
        // SAFETY: it was found to be a SpiceQmpRequest.
        let request = unsafe { borrow(request) };
        request.id().map_or(null(), glib::GStr::as_ptr)
    })
}

/// spice_qmp_request_is_out_of_band:
/// @request: a #SpiceQmpRequest
///
/// Whether the client has sent the request out of band (`exec-oob`): its answer then
/// overtakes those of requests before it that are not answered yet.
///
/// Returns: %TRUE if it is out of band
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_is_out_of_band(
    request: *mut SpiceQmpRequest,
) -> gboolean {
    no_panic("spice_qmp_request_is_out_of_band", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_request_is_out_of_band: SPICE_IS_QMP_REQUEST(request), GFALSE);
        // SAFETY: it was found to be a SpiceQmpRequest.
        (unsafe { borrow(request) }.band() == Band::Out).into_glib()
    })
}

/// spice_qmp_request_reply:
/// @request: a #SpiceQmpRequest
/// @value: (nullable): the text of a JSON value, or %NULL for an empty object, which most
///   commands of QEMU return
/// @error: return location for a #GError, or %NULL
///
/// Answers the request: the command has succeeded, and returns @value. If the client is
/// gone, nothing happens.
///
/// The error is %SPICE_QMP_ERROR_INVALID_ARGUMENT if @value is not JSON, and the request is
/// not answered; or if it was answered before.
///
/// Returns: %TRUE, or %FALSE on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_reply(
    request: *mut SpiceQmpRequest,
    value: *const c_char,
    error: *mut *mut GError,
) -> gboolean {
    no_panic("spice_qmp_request_reply", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_request_reply: SPICE_IS_QMP_REQUEST(request), GFALSE);
        g_return_val_if_fail!(spice_qmp_request_reply: IS_THREAD_OF_REQUEST(request), GFALSE);
        g_return_val_if_fail!(spice_qmp_request_reply: value.is_null() || g_utf8_validate(value), GFALSE);
        // SAFETY: both were checked.
        let replied = unsafe { borrow(request).reply(text(value).unwrap_or(EMPTY)) };
        // SAFETY: C passes a place for an error, or NULL.
        unsafe { worked(replied, error) }
    })
}

/// spice_qmp_request_reply_variant:
/// @request: a #SpiceQmpRequest
/// @value: (nullable): what the command returns, such as an `a{sv}`, or %NULL for an empty
///   object; a floating reference is consumed
/// @error: return location for a #GError, or %NULL
///
/// Answers the request like spice_qmp_request_reply(), with #GVariant instead of JSON text.
///
/// The errors are the same: %SPICE_QMP_ERROR_INVALID_ARGUMENT also if JSON has no
/// equivalent of @value.
///
/// Returns: %TRUE, or %FALSE on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_reply_variant(
    request: *mut SpiceQmpRequest,
    value: *mut GVariant,
    error: *mut *mut GError,
) -> gboolean {
    no_panic("spice_qmp_request_reply_variant", GFALSE, || {
        // SAFETY: it is a GVariant or NULL; a floating reference is taken over.
        let value: Option<glib::Variant> = unsafe { from_glib_none(value) };
        g_return_val_if_fail!(spice_qmp_request_reply_variant: SPICE_IS_QMP_REQUEST(request), GFALSE);
        g_return_val_if_fail!(spice_qmp_request_reply_variant: IS_THREAD_OF_REQUEST(request), GFALSE);
        let value = value.map_or_else(|| Ok(EMPTY.into()), |value| variant_to_json(&value));
        // SAFETY: it was found to be a SpiceQmpRequest.
        let request = unsafe { borrow(request) };
        let replied = value.and_then(|value| request.reply(&value));
        // SAFETY: C passes a place for an error, or NULL.
        unsafe { worked(replied, error) }
    })
}

/// spice_qmp_request_refuse:
/// @request: a #SpiceQmpRequest
/// @error_class: (nullable): the class of the error, such as `DeviceNotFound`, or %NULL for
///   `GenericError`, the class of most errors of QEMU
/// @description: what went wrong, for people
///
/// Answers the request: the command has failed. If the client is gone, nothing
/// happens.
///
/// Returns: %TRUE, or %FALSE if the request was answered before
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_request_refuse(
    request: *mut SpiceQmpRequest,
    error_class: *const c_char,
    description: *const c_char,
) -> gboolean {
    no_panic("spice_qmp_request_refuse", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_request_refuse: SPICE_IS_QMP_REQUEST(request), GFALSE);
        g_return_val_if_fail!(spice_qmp_request_refuse: IS_THREAD_OF_REQUEST(request), GFALSE);
        g_return_val_if_fail!(spice_qmp_request_refuse: error_class.is_null() || g_utf8_validate(error_class), GFALSE);
        g_return_val_if_fail!(spice_qmp_request_refuse: g_utf8_validate(description), GFALSE);
        // SAFETY: all three were checked.
        let refused = unsafe {
            let class = text(error_class).unwrap_or("GenericError");
            borrow(request).refuse(class, text(description).unwrap_or_default())
        };
        refused.into_glib()
    })
}

/// The return value of most commands.
const EMPTY: &str = "{}";

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_REQUEST(request: *mut SpiceQmpRequest) -> bool {
    is_a(request.cast(), RequestObject::static_type())
}

/// Whether this thread created the server of the request, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_THREAD_OF_REQUEST(request: *mut SpiceQmpRequest) -> bool {
    // SAFETY: it is a live SpiceQmpRequest; any thread may ask.
    unsafe { borrow(request) }.is_on_its_thread()
}

/// # Safety
///
/// `request` is a live `SpiceQmpRequest`, and stays so while the result is used.
unsafe fn borrow(request: *mut SpiceQmpRequest) -> Borrowed<RequestObject> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(request.cast::<<RequestObject as ObjectType>::GlibType>()) }
}

/// # Safety
///
/// `text` is NULL or NUL-terminated, and stays so while the result is used.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: as the caller promises.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default())
}
