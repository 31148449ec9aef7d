// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client's request as a GObject, for the C library.

use glib::subclass::prelude::*;

use super::QmpServer;
use crate::home::Home;
use crate::qmp::{Band, Error, ErrorClass, Request, RequestId, UsageError, for_c};

glib::wrapper! {
    /// A [`Request`] of a client of a [`ServerObject`](super::ServerObject), for the C
    /// library. It is answered once: at the latest when its last reference is dropped,
    /// which any thread may do.
    pub struct RequestObject(ObjectSubclass<imp::RequestObject>);
}

impl RequestObject {
    pub(super) fn new(home: &Home, server: &QmpServer, request: &Request) -> Self {
        let object: Self = glib::Object::new();
        let set = object.imp().asked.set(Asked {
            home: home.clone(),
            number: request.number(),
            command: text(request.command()),
            arguments: request.arguments().map(text),
            id: request.id().map(text),
            band: request.band(),
        });
        if set.is_ok() {
            object.imp().server.replace(Some(server.clone()));
        }
        object
    }

    /// The name of the command.
    pub fn command(&self) -> &glib::GStr {
        let asked = self.imp().asked.get();
        asked.map_or_else(Default::default, |asked| asked.command.as_gstr())
    }

    /// The arguments as JSON text, if there are any.
    pub fn arguments(&self) -> Option<&glib::GStr> {
        let asked = self.imp().asked.get();
        asked.and_then(|asked| Some(asked.arguments.as_ref()?.as_gstr()))
    }

    /// The client's `id` as JSON text, if there is one.
    pub fn id(&self) -> Option<&glib::GStr> {
        let asked = self.imp().asked.get();
        asked.and_then(|asked| Some(asked.id.as_ref()?.as_gstr()))
    }

    /// The band in which the client has sent it.
    pub fn band(&self) -> Band {
        let asked = self.imp().asked.get();
        asked.map_or(Band::In, |asked| asked.band)
    }

    /// Answers with a value, which is JSON text. If the client is gone, nothing happens.
    ///
    /// # Errors
    ///
    /// [`UsageError::InvalidArgument`] if the value is not JSON, and nothing is answered;
    /// or if the request was answered before.
    pub fn reply(&self, value: &str) -> Result<(), Error> {
        let (Some(server), Some(asked)) = (self.server(), self.imp().asked.get()) else {
            return Err(
                UsageError::InvalidArgument("the request was answered before".into()).into(),
            );
        };
        server.reply(asked.number, value)?;
        self.imp().server.take();
        Ok(())
    }

    /// Answers with an error of one of QEMU's classes. Returns false if the request was answered
    /// before.
    pub fn refuse(&self, class: &str, desc: &str) -> bool {
        let (Some(server), Some(asked)) = (self.imp().server.take(), self.imp().asked.get()) else {
            return false;
        };
        server.refuse(asked.number, &ErrorClass::from_name(class), desc)
    }

    /// Refuses it, unless it was answered.
    pub(super) fn decline(&self) {
        // The client chose its length.
        let command = self.command().as_str();
        let shown = &command[..command.floor_char_boundary(MAX_SHOWN_NAME)];
        let desc = format!("this server does not answer the command {shown}");
        self.refuse(ErrorClass::CommandNotFound.name(), &desc);
    }

    /// Whether the calling thread is the server's, and runs its main context or could run it: no
    /// other may answer. For bindings to languages that do not ensure that themselves.
    #[must_use]
    pub fn is_on_its_thread(&self) -> bool {
        let asked = self.imp().asked.get();
        asked.is_none_or(|asked| asked.home.is_here())
    }

    fn server(&self) -> Option<QmpServer> {
        self.imp().server.borrow().clone()
    }
}

/// QEMU's longest has 40 bytes.
const MAX_SHOWN_NAME: usize = 64;

/// The request, and the server to answer it with.
struct Asked {
    home: Home,
    number: RequestId,
    command: glib::GString,
    arguments: Option<glib::GString>,
    id: Option<glib::GString>,
    band: Band,
}

/// A C string.
fn text(text: &str) -> glib::GString {
    glib::GString::from(&*for_c(text))
}

mod imp {
    use std::cell::{OnceCell, RefCell};

    use glib::subclass::prelude::*;

    use super::{Asked, QmpServer};

    #[derive(Default)]
    pub struct RequestObject {
        /// Set at its creation.
        pub(super) asked: OnceCell<Asked>,
        /// `None` once it is answered.
        pub(super) server: RefCell<Option<QmpServer>>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for RequestObject {
        const NAME: &'static str = "SpiceQmp1Request";
        type Type = super::RequestObject;
    }

    impl ObjectImpl for RequestObject {
        fn dispose(&self) {
            let Some(asked) = self.asked.get() else {
                return;
            };
            if asked.home.is_my_thread() {
                self.obj().decline();
                return;
            }
            // It is moved to its own thread, as a server is.
            let request = self.obj().clone();
            asked
                .home
                .idle(glib::Priority::DEFAULT, move || request.decline());
        }
    }
}
