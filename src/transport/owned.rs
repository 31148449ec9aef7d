// SPDX-License-Identifier: MIT OR Apache-2.0
//! A SPICE channel's reference to the port that is attached to it.
#![allow(unsafe_code)]

use glib::prelude::*;
use glib::translate::{IntoGlib, ToGlibPtr, from_glib_borrow};

use super::spice::PortChannel;

impl PortChannel {
    /// The object that [`own`](Self::own) bound to this channel under `key`.
    pub(crate) fn owned<T: IsA<glib::Object>>(&self, key: glib::Quark) -> Option<T> {
        // SAFETY: only `own` stores under `key`, and what it stores is a live `T`
        // for as long as it is stored; the borrow is cloned into a reference.
        unsafe {
            let object =
                glib::gobject_ffi::g_object_get_qdata(self.as_ptr().cast(), key.into_glib());
            if object.is_null() {
                return None;
            }
            let object =
                from_glib_borrow::<_, glib::Object>(object.cast::<glib::gobject_ffi::GObject>());
            object.downcast_ref::<T>().cloned()
        }
    }

    /// Makes the channel own a reference to `object` under `key`. It is dropped soon
    /// after the channel has gone, so that `object` can report that first.
    ///
    /// Some callers drop a reference that they only borrowed: the channel's.
    /// While the channel lives, `object` then [`disown`](Self::disown)s itself
    /// in its disposal.
    pub(crate) fn own(&self, key: glib::Quark, object: &impl IsA<glib::Object>) {
        unsafe extern "C" fn release(object: glib::ffi::gpointer) {
            // SAFETY: GObject calls this once, when the channel is finalized, with
            // the object to which `own` took the reference that goes to `drop_soon`.
            unsafe { drop_soon(object.cast()) }
        }
        let object: *mut glib::gobject_ffi::GObject = object.upcast_ref().to_glib_full();
        // SAFETY: both objects are live, and `release` matches the reference taken above.
        unsafe {
            glib::gobject_ffi::g_object_set_qdata_full(
                self.as_ptr().cast(),
                key.into_glib(),
                object.cast(),
                Some(release),
            );
        }
    }

    /// Removes `object`, which is being disposed of, if it is owned under `key`.
    ///
    /// The owned reference is dropped unless a caller did that already
    /// (`given_back`): viewers unref a port that [`own`](Self::own) only lends them.
    pub(crate) fn disown(
        &self,
        key: glib::Quark,
        object: &impl IsA<glib::Object>,
        given_back: bool,
    ) {
        let object: *mut glib::gobject_ffi::GObject = object.upcast_ref().as_ptr();
        // SAFETY: all objects are live; `steal` calls no destroy notify, so the
        // reference that `own` took is ours to drop.
        unsafe {
            let channel = self.as_ptr().cast();
            let key = key.into_glib();
            if glib::gobject_ffi::g_object_get_qdata(channel, key) != object.cast() {
                return;
            }
            glib::gobject_ffi::g_object_steal_qdata(channel, key);
            if !given_back {
                glib::gobject_ffi::g_object_unref(object);
            }
        }
    }
}

/// Drops a reference to `object` when the main loop is idle,
/// unless the object is gone by then: the caller cannot know whether a borrower has
/// already dropped the reference by mistake, while others still hold one
/// for a short time.
///
/// # Safety
///
/// `object` is live, and the caller gives up a reference to it.
unsafe fn drop_soon(object: *mut glib::gobject_ffi::GObject) {
    unsafe extern "C" fn drop_now(object: glib::ffi::gpointer) -> glib::ffi::gboolean {
        // SAFETY: the object is live: otherwise `cancel` would have destroyed the
        // source. The source's reference and the object's are dropped, once.
        unsafe {
            let object: *mut glib::gobject_ffi::GObject = object.cast();
            let source = glib::gobject_ffi::g_object_steal_qdata(object, key().into_glib());
            glib::ffi::g_source_unref(source.cast());
            glib::gobject_ffi::g_object_unref(object);
        }
        glib::ffi::G_SOURCE_REMOVE
    }
    unsafe extern "C" fn cancel(source: glib::ffi::gpointer) {
        // SAFETY: the object, which is being finalized, had this reference.
        unsafe {
            glib::ffi::g_source_destroy(source.cast());
            glib::ffi::g_source_unref(source.cast());
        }
    }
    fn key() -> glib::Quark {
        glib::Quark::from_str("spice-qmp1-drop-soon")
    }
    let context = glib::MainContext::default();
    // SAFETY: the source is new, and its data, the object, outlives it: it is
    // destroyed with the object. The object takes over the reference to it.
    unsafe {
        let source = glib::ffi::g_idle_source_new();
        glib::ffi::g_source_set_priority(source, glib::Priority::LOW.into_glib());
        glib::ffi::g_source_set_callback(source, Some(drop_now), object.cast(), None);
        glib::ffi::g_source_attach(source, context.to_glib_none().0);
        glib::gobject_ffi::g_object_set_qdata_full(
            object,
            key().into_glib(),
            source.cast(),
            Some(cancel),
        );
    }
}
