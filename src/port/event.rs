//! An event of the virtual machine as a refcounted box.

use std::sync::Arc;

use serde::Deserialize;

use super::variant::json_to_variant;
use crate::qmp::{self, Error};

/// Something that happened in the virtual machine (QMP specification, section
/// "Asynchronous events").
#[derive(Debug, Clone, PartialEq, Eq, glib::SharedBoxed)]
#[shared_boxed_type(name = "SpiceQmp1Event", nullable)]
pub struct Event(Arc<Inner>);

/// What an [`Event`] points to.
#[doc(hidden)]
#[derive(Debug, PartialEq, Eq)]
pub struct Inner {
    name: glib::GString,
    data: Option<glib::GString>,
    timestamp: i64,
}

impl Event {
    /// The name, such as `STOP`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The data as JSON text, if the event has any.
    pub fn data(&self) -> Option<&str> {
        self.0.data.as_deref()
    }

    /// [`name`](Self::name), with the NUL at its end that C needs.
    pub fn name_gstr(&self) -> &glib::GStr {
        self.0.name.as_ref()
    }

    /// [`data`](Self::data), with the NUL at its end that C needs.
    pub fn data_gstr(&self) -> Option<&glib::GStr> {
        self.0.data.as_ref().map(AsRef::as_ref)
    }

    /// The data as a `GVariant` (see [`json_to_variant`](crate::json_to_variant)):
    /// `a{sv}`, as QEMU's event data are objects.
    ///
    /// # Errors
    ///
    /// As for [`json_to_variant`](crate::json_to_variant).
    pub fn data_variant(&self) -> Result<Option<glib::Variant>, Error> {
        self.data().map(json_to_variant).transpose()
    }

    /// The data as a type of one's own; of an event without data, as of `null`.
    ///
    /// # Errors
    ///
    /// Where the data does not fit the type.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.data().unwrap_or("null"))
    }

    /// Microseconds since 1970 on the host, or -1 where QEMU's clock failed.
    pub fn timestamp(&self) -> i64 {
        self.0.timestamp
    }
}

impl From<&qmp::Event<'_>> for Event {
    fn from(event: &qmp::Event<'_>) -> Self {
        Self(Arc::new(Inner {
            name: event.name.as_ref().into(),
            data: event.data.as_deref().map(Into::into),
            timestamp: event.timestamp(),
        }))
    }
}
