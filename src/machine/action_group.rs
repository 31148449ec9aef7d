// SPDX-License-Identifier: MIT OR Apache-2.0
//! `GActionGroup` for [`Machine`](super::Machine).
//!
//! Not through `gio::subclass`: in gio 0.22 its `query_action` keeps the state that it also
//! passes to the caller, who frees it.
#![allow(unsafe_code, reason = "an interface is a table of C functions")]

use std::ffi::{CStr, c_char};

use gio::ffi::{GActionGroup, GActionGroupInterface};
use glib::ffi::{GFALSE, GTRUE, GVariant, GVariantType, gboolean};
use glib::prelude::*;
use glib::subclass::prelude::*;
use glib::translate::{IntoGlib, ToGlibPtr, from_glib_none};

use super::actions::{Action, Menu};

glib::wrapper! {
    /// The interface, as a class implements it.
    pub struct ActionGroup(Interface<GActionGroup, GActionGroupInterface>);

    match fn {
        type_ => || gio::ffi::g_action_group_get_type(),
    }
}

/// What the interface requires of a class.
pub(super) trait Actions: ObjectSubclass {
    /// The menu that the program was last notified of; empty on another thread.
    fn menu(&self) -> Menu;
    /// `g_action_group_activate_action`.
    fn activate(&self, action: Action, parameter: Option<&glib::Variant>);
    /// `g_action_group_change_action_state`: the state changes when the machine does.
    fn change_state(&self, action: Action, value: &glib::Variant);
}

// SAFETY: the functions have the types of the interface's table, and follow its
// ownership rules. GIO's own functions do the rest, through `query_action`.
unsafe impl<T: Actions> IsImplementable<T> for ActionGroup {
    fn interface_init(interface: &mut glib::Interface<Self>) {
        let table = interface.as_mut();
        table.list_actions = Some(list_actions);
        table.query_action = Some(query_action::<T>);
        table.activate_action = Some(activate_action::<T>);
        table.change_action_state = Some(change_action_state::<T>);
    }
}

/// # Safety
///
/// `group` is a live instance of this class, and stays so while the result is used.
unsafe fn class<'a, T: Actions>(group: *mut GActionGroup) -> &'a T {
    // SAFETY: as the caller promises.
    let instance = unsafe { &*group.cast::<T::Instance>() };
    instance.imp()
}

/// # Safety
///
/// `name` is NULL or NUL-terminated.
unsafe fn action(name: *const c_char) -> Option<Action> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let name = unsafe { CStr::from_ptr(name) };
    Action::from_name(name.to_str().ok()?)
}

unsafe extern "C" fn list_actions(_: *mut GActionGroup) -> *mut *mut c_char {
    Action::ALL.map(Action::name)[..].to_glib_full()
}

unsafe extern "C" fn query_action<T: Actions>(
    group: *mut GActionGroup,
    name: *const c_char,
    enabled: *mut gboolean,
    parameter_type: *mut *const GVariantType,
    state_type: *mut *const GVariantType,
    state_hint: *mut *mut GVariant,
    state: *mut *mut GVariant,
) -> gboolean {
    // SAFETY: GIO passes a live object of this class, and a name.
    let (machine, action) = unsafe { (class::<T>(group), action(name)) };
    let Some(action) = action else {
        return GFALSE;
    };
    let menu = machine.menu();
    let paused = (action == Action::Pause).then_some(menu.paused);
    // SAFETY: each is NULL or a location for a value; types are borrowed, values are passed.
    unsafe {
        set(enabled, || menu.is_enabled(action).into_glib());
        set(parameter_type, std::ptr::null);
        set(state_type, || match paused {
            Some(_) => glib::VariantTy::BOOLEAN.as_ptr(),
            None => std::ptr::null(),
        });
        set(state_hint, std::ptr::null_mut);
        set(state, || {
            paused.map(|paused| paused.to_variant()).to_glib_full()
        });
    }
    GTRUE
}

/// # Safety
///
/// `place` is NULL or writable.
unsafe fn set<T>(place: *mut T, value: impl FnOnce() -> T) {
    if !place.is_null() {
        // SAFETY: as the caller promises.
        unsafe { place.write(value()) }
    }
}

unsafe extern "C" fn activate_action<T: Actions>(
    group: *mut GActionGroup,
    name: *const c_char,
    parameter: *mut GVariant,
) {
    // SAFETY: GIO passes a live object of this class, a name, and a value or NULL.
    unsafe {
        // A floating value is sunk.
        let parameter: Option<glib::Variant> = from_glib_none(parameter);
        if let Some(action) = action(name) {
            class::<T>(group).activate(action, parameter.as_ref());
        }
    }
}

unsafe extern "C" fn change_action_state<T: Actions>(
    group: *mut GActionGroup,
    name: *const c_char,
    value: *mut GVariant,
) {
    // SAFETY: GIO passes a live object of this class, a name, and a value.
    unsafe {
        let value: Option<glib::Variant> = from_glib_none(value);
        if let (Some(action), Some(value)) = (action(name), value) {
            class::<T>(group).change_state(action, &value);
        }
    }
}
