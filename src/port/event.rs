// SPDX-License-Identifier: MIT OR Apache-2.0
//! An event of the virtual machine as a reference-counted boxed type.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::slice::SliceIndex;
use std::sync::Arc;

use serde::Deserialize;
use smallvec::SmallVec;

use super::variant::json_to_variant;
use crate::qmp::{self, Error};

/// An event of the virtual machine (QMP specification, section
/// "Asynchronous events").
///
/// ```no_run
/// # fn f(port: spice_qmp::QmpPort) {
/// port.connect_qmp_event(Some("DEVICE_TRAY_MOVED"), |_, event| {
///     println!("{} {}", event.name(), event.data().unwrap_or("{}"));
/// });
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, glib::SharedBoxed)]
#[shared_boxed_type(name = "SpiceQmp1Event", nullable)]
pub struct Event(Arc<Inner>);

/// What an [`Event`] points to.
#[doc(hidden)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inner {
    /// The name and then the data, if any, each with a terminating NUL for C.
    text: SmallVec<[u8; SHORT]>,
    /// The length of the name, including its NUL.
    name: usize,
    timestamp: i64,
}

/// Texts up to this length, as most of QEMU's are, need no allocation of their own.
const SHORT: usize = 80;

impl Event {
    /// The name, such as `STOP`.
    pub fn name(&self) -> &str {
        self.name_gstr()
    }

    /// The data as JSON text, if the event has any.
    pub fn data(&self) -> Option<&str> {
        self.data_gstr().map(glib::GStr::as_str)
    }

    /// [`name`](Self::name), NUL-terminated for C.
    pub fn name_gstr(&self) -> &glib::GStr {
        self.0.text_at(..self.0.name)
    }

    /// [`data`](Self::data), NUL-terminated for C.
    pub fn data_gstr(&self) -> Option<&glib::GStr> {
        let has_data = self.0.text.len() > self.0.name;
        has_data.then(|| self.0.text_at(self.0.name..))
    }

    /// The data as a `GVariant` (see [`json_to_variant`](crate::json_to_variant)):
    /// `a{sv}`, since QEMU's event data are objects.
    ///
    /// # Errors
    ///
    /// As for [`json_to_variant`](crate::json_to_variant).
    pub fn data_variant(&self) -> Result<Option<glib::Variant>, Error> {
        self.data().map(json_to_variant).transpose()
    }

    /// Deserializes the data; an event without data counts as `null`.
    ///
    /// # Errors
    ///
    /// If the data does not match the type.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.data().unwrap_or("null"))
    }

    /// Microseconds since 1970 on the host, or -1 if QEMU's clock failed.
    pub fn timestamp(&self) -> i64 {
        self.0.timestamp
    }
}

impl Inner {
    fn fill(&mut self, event: &qmp::Event<'_>) {
        let data = event.data.as_deref();
        self.text.clear();
        let length = event.name.len() + 1 + data.map_or(0, |data| data.len() + 1);
        self.text.reserve_exact(length);
        self.text.extend_from_slice(event.name.as_bytes());
        self.text.push(0);
        self.name = self.text.len();
        if let Some(data) = data {
            self.text.extend_from_slice(data.as_bytes());
            self.text.push(0);
        }
        self.timestamp = event.timestamp();
    }

    fn text_at(&self, range: impl SliceIndex<[u8], Output = [u8]>) -> &glib::GStr {
        // SAFETY: each of the two parts is a `str` and a NUL behind it.
        unsafe { glib::GStr::from_utf8_with_nul_unchecked(&self.text[range]) }
    }
}
impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Event")
            .field("name", &self.name())
            .field("data", &self.data())
            .field("timestamp", &self.timestamp())
            .finish()
    }
}

thread_local! {
    /// The last small event that was delivered. If no event is kept, a storm of them
    /// needs only this one.
    static SPARE: Cell<Option<Event>> = const { Cell::new(None) };
}

impl Event {
    /// The size of its name and data.
    pub(super) fn size(&self) -> usize {
        let text = self.0.text.len();
        let nuls = if text > self.0.name { 2 } else { 1 };
        text - nuls
    }

    /// Marks it as delivered: the next event may reuse its memory if nothing has kept it.
    pub(super) fn delivered(self) {
        if !self.0.text.spilled() {
            // Fails while the thread ends.
            let _ = SPARE.try_with(|spare| spare.replace(Some(self)));
        }
    }
}

impl From<&qmp::Event<'_>> for Event {
    fn from(event: &qmp::Event<'_>) -> Self {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        if let Some(mut spare) = spare
            && let Some(inner) = Arc::get_mut(&mut spare.0)
        {
            inner.fill(event);
            return spare;
        }
        let mut inner = Inner::default();
        inner.fill(event);
        Self(Arc::new(inner))
    }
}
