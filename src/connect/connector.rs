// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpConnector`: connects ports to any address, with options.

mod imp;
mod questions;

use std::future::pending;
use std::pin::{Pin, pin};
use std::time::Duration;

use glib::prelude::*;
use glib::subclass::prelude::*;

use super::dial::Dial;
use super::line;
use crate::port::QmpPort;
use crate::qmp::{ConnectError, Error};
use questions::{Asking, NEED_PASSWORD, Questions};

glib::wrapper! {
    /// Connects [`QmpPort`]s to any [`Address`](crate::Address), with options.
    ///
    /// It belongs to the thread that made it, and can be used again and again: a call
    /// copies the options. The port lives where the calling thread's default main context
    /// is, and on a SPICE server on GLib's default one.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), spice_qmp::Error> {
    /// use std::time::Duration;
    /// use spice_qmp::Connector;
    ///
    /// let connector = Connector::builder("spice://localhost:5900")
    ///     .reconnect(Duration::from_millis(250))
    ///     .build();
    /// connector.connect_need_password(|connector, _retry| {
    ///     // A dialog may answer later, too.
    ///     connector.answer(Some("geheim"));
    /// });
    /// let port = connector.open().await?;
    /// # drop(port); Ok(()) }
    /// ```
    ///
    /// # Reconnecting
    ///
    /// With the property `reconnect` a port stays when its connection ends: its calls fail
    /// with [`Error::Closed`], its state is
    /// [`Connecting`](crate::PortState::Connecting), and it is ready again when QEMU is
    /// back, perhaps with another machine. It tries again after `reconnect` milliseconds,
    /// then after twice as long and so on up to 5 seconds, each time a random part less.
    /// It ends when the port is [closed](QmpPort::close) or dropped, where the server
    /// refuses the login or TLS fails, and where it does not speak QMP: `last-error` says
    /// why. Nobody is asked for a password then: the one that was right is used again.
    ///
    /// Commands are never repeated: whether QEMU executed those that failed with
    /// [`Error::Closed`] is not known.
    ///
    /// A SPICE server has one client. A port that reconnects throws out whoever came in
    /// its place, so two of them throw out each other, ever more slowly.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | `address` | string | where to connect; see [`Address`](crate::Address) |
    /// | `password` | string, write only | the password (ticket) for a SPICE server |
    /// | `ca-file` | string | a file of certificates (PEM) that are trusted over TLS in place of the system's |
    /// | `host-subject` | string | the subject that the server's certificate must have over TLS, instead of its host name |
    /// | `timeout` | unsigned, milliseconds | how long connecting may take, also each further attempt; 10,000, 0 is without limit. The time in which a password is waited for does not count |
    /// | `wait` | boolean | whether to try again, within the timeout, where there is no server at the address |
    /// | `reconnect` | unsigned, milliseconds | after how long to connect again when the connection has ended; 0, the default, is never |
    ///
    /// Passwords and TLS are for SPICE servers; nothing else has them.
    ///
    /// # Signals
    ///
    /// - `need-password (retry: boolean)`: the SPICE server wants a password; `retry` says
    ///   that it refused one. Connecting waits until [`answer`](Self::answer) is called, by
    ///   the handler or later. Without a handler it fails with
    ///   [`ConnectError::Authentication`](crate::ConnectError::Authentication).
    pub struct Connector(ObjectSubclass<imp::Connector>);
}

impl Connector {
    /// A connector without an address.
    #[must_use]
    pub fn new() -> Self {
        glib::Object::new()
    }

    /// A connector for this address, with options.
    pub fn builder(address: &str) -> ConnectorBuilder {
        ConnectorBuilder(glib::Object::builder().property("address", address))
    }

    /// Connects as the properties say now, and waits until the port is ready and its
    /// property `status` is known.
    ///
    /// # Errors
    ///
    /// As for [`QmpPort::open`], and
    /// [`ConnectError::Authentication`](crate::ConnectError::Authentication) and
    /// [`Tls`](crate::ConnectError::Tls).
    pub fn open(&self) -> impl Future<Output = Result<QmpPort, Error>> + use<> {
        self.open_until(pending())
    }

    /// [`open`](Self::open) until `cancelled` ends. Then it waits until QEMU has answered
    /// what a SPICE port asked it, for at most the port's `close-timeout`, before it fails.
    /// For the C library and the tool.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and [`Error::Cancelled`].
    #[doc(hidden)]
    pub fn open_until<C: Future<Output = ()>>(
        &self,
        cancelled: C,
    ) -> impl Future<Output = Result<QmpPort, Error>> + use<C> {
        let reconnect = Duration::from_millis(self.reconnect().into());
        self.log_in(cancelled, async move |dial, cancelled| {
            line::open(dial, reconnect, cancelled).await
        })
    }

    /// The names of all ports of the SPICE server at `address`, sorted, whether they speak
    /// QMP or not. What `cancelled` and the errors are is said at
    /// [`open_until`](Self::open_until).
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    #[cfg(feature = "spice")]
    #[doc(hidden)]
    pub fn port_names_until<C: Future<Output = ()>>(
        &self,
        cancelled: C,
    ) -> impl Future<Output = Result<Vec<String>, Error>> + use<C> {
        self.log_in(cancelled, async |dial, cancelled| {
            dial.port_names(cancelled).await
        })
    }

    /// Does `work` with the password that there is, and then with those that are asked for.
    fn log_in<T, C: Future<Output = ()>, W>(
        &self,
        cancelled: C,
        work: W,
    ) -> impl Future<Output = Result<T, Error>> + use<T, C, W>
    where
        W: AsyncFn(Dial, Pin<&mut C>) -> Result<T, Error>,
    {
        let dial = self.imp().dial();
        let connector = self.clone();
        async move {
            let mut cancelled = pin!(cancelled);
            let mut dial = dial?;
            loop {
                let done = work(dial.clone(), cancelled.as_mut()).await;
                if let Err(Error::Connect(ConnectError::Authentication(text))) = &done
                    && dial.may_ask(text)
                {
                    let retry = dial.login.password.is_some();
                    let asking = pin!(Asking::new(&connector, retry));
                    match line::first(asking, cancelled.as_mut()).await {
                        Some(Some(password)) => {
                            dial.login.password = Some(password);
                            continue;
                        }
                        Some(None) => {}
                        None => return Err(Error::Cancelled("the connecting".into())),
                    }
                }
                return done;
            }
        }
    }

    /// Answers the signal `need-password`, in its handler or later; `None` gives up:
    /// connecting fails with
    /// [`ConnectError::Authentication`](crate::ConnectError::Authentication). Where several
    /// calls need a password, they ask one after the other. Without a question that was not
    /// answered, it does nothing. The property `password` stays as it is.
    pub fn answer(&self, password: Option<&str>) {
        self.questions().answer(password);
    }

    /// Calls `f` where a SPICE server wants a password; its argument says whether it has
    /// refused one.
    pub fn connect_need_password(
        &self,
        f: impl Fn(&Self, bool) + 'static,
    ) -> glib::SignalHandlerId {
        self.connect_local(NEED_PASSWORD, false, move |values| {
            if let (Ok(connector), Ok(retry)) = (values[0].get::<Self>(), values[1].get()) {
                f(&connector, retry);
            }
            None
        })
    }

    /// Whether the calling thread is the one that made the connector: no other may use it.
    /// For bindings to languages that do not see to that.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().is_my_thread()
    }

    fn questions(&self) -> &Questions {
        &self.imp().questions
    }
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a [`Connector`] with options.
#[must_use = "a builder does nothing unless it builds"]
pub struct ConnectorBuilder(glib::object::ObjectBuilder<'static, Connector>);

impl ConnectorBuilder {
    /// The password (ticket) for a SPICE server.
    pub fn password(self, password: &str) -> Self {
        Self(self.0.property("password", password))
    }

    /// A file of certificates (PEM) that are trusted over TLS, in place of the system's.
    pub fn ca_file(self, path: &str) -> Self {
        Self(self.0.property("ca-file", path))
    }

    /// The subject that the server's certificate must have over TLS, such as
    /// `C=DE,O=Example,CN=host`, instead of the server's host name.
    pub fn host_subject(self, subject: &str) -> Self {
        Self(self.0.property("host-subject", subject))
    }

    /// How long connecting may take, and each further attempt.
    pub fn timeout(self, timeout: Duration) -> Self {
        // 0 would be without limit.
        Self(self.0.property("timeout", millis(timeout).max(1)))
    }

    /// Whether to try again, within the timeout, where there is no server at the address.
    pub fn wait(self, wait: bool) -> Self {
        Self(self.0.property("wait", wait))
    }

    /// After how long to connect again when the connection has ended; zero is never.
    pub fn reconnect(self, pause: Duration) -> Self {
        let millis = millis(pause);
        let part = millis == 0 && !pause.is_zero();
        Self(self.0.property("reconnect", millis.max(part.into())))
    }

    /// The connector.
    #[must_use]
    pub fn build(self) -> Connector {
        self.0.build()
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
