// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server as a GObject, for the C library.

mod imp;

use glib::prelude::*;
use glib::subclass::prelude::*;

use crate::qmp::{Error, VersionTriple};

glib::wrapper! {
    /// A [`QmpServer`](super::QmpServer) as a GObject, for the C library and bindings
    /// to it: requests are emitted as a signal, each from the main loop.
    ///
    /// Any thread may drop the last reference, which closes the connection.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | `stream` | `GIOStream`, construct only | the client is at its other end, and nothing has been read from it |
    /// | `version` | string, construct only | QEMU's version in the greeting: three numbers |
    /// | `capabilities` | strings, construct only | the capabilities that the greeting offers, such as `oob` |
    /// | `negotiated` | boolean | whether the client has negotiated |
    /// | `close-reason` | string or NULL | why the connection has ended, once it has |
    ///
    /// # Signals
    ///
    /// - `command (request: Request) -> boolean`, detail = the command's name: true stops the
    ///   emission. A request that was not answered when all handlers have
    ///   returned false, or when its last reference is dropped, is refused with
    ///   [`CommandNotFound`](crate::ErrorClass::CommandNotFound).
    pub struct ServerObject(ObjectSubclass<imp::ServerObject>);
}

impl ServerObject {
    /// Serves the client at the other end of `stream`, from which nothing has been read yet.
    /// `version` must be [valid](Self::is_version).
    pub fn new(
        stream: &impl IsA<gio::IOStream>,
        version: Option<&str>,
        capabilities: &glib::StrV,
    ) -> Self {
        glib::Object::builder()
            .property("stream", stream)
            .property("version", version)
            .property("capabilities", capabilities)
            .build()
    }

    /// Whether a text is a version: three numbers separated by dots.
    #[must_use]
    pub fn is_version(text: &str) -> bool {
        version(text).is_some()
    }

    /// Sends an event with the current time, if the client has negotiated and is still connected.
    ///
    /// # Errors
    ///
    /// As for [`QmpServer::event`](super::QmpServer::event).
    pub fn emit_event(&self, name: &str, data: Option<&str>) -> Result<(), Error> {
        if let Some(server) = self.imp().server() {
            server.event(name, data)?;
        }
        Ok(())
    }

    /// Closes the connection at once.
    pub fn close(&self) {
        if let Some(server) = self.imp().server() {
            server.close();
        }
    }

    /// Closes the connection when the client has read what it was sent.
    pub fn flush_and_close(&self) {
        if let Some(server) = self.imp().server() {
            server.begin_to_finish();
        }
    }

    /// Whether the calling thread is the one that created the server, and runs its main context
    /// or could run it: no other may use it. For bindings to languages that do not ensure that
    /// themselves.
    #[must_use]
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }
}

fn version(text: &str) -> Option<VersionTriple> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    let version = VersionTriple {
        major: next()?,
        minor: next()?,
        micro: next()?,
    };
    numbers.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_three_numbers() {
        for (text, is_version) in [
            ("10.0.2", true),
            ("0.0.0", true),
            ("", false),
            ("10.0", false),
            ("10.0.x", false),
            ("10.0.2.", false),
            ("10.0.2.1", false),
            ("4294967296.0.0", false),
        ] {
            assert_eq!(ServerObject::is_version(text), is_version, "{text:?}");
        }
    }
}
