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
    /// It belongs to the thread that created it, and can be used repeatedly: each call
    /// copies the options. The port belongs to the calling thread's thread-default main
    /// context; on a SPICE server, it belongs to GLib's default one.
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
    /// With the property `reconnect`, a port stays when its connection ends: its calls fail
    /// with [`Error::Closed`], its state is
    /// [`Connecting`](crate::PortState::Connecting), and it is ready again when QEMU is
    /// back, perhaps with another machine. It tries again after `reconnect` milliseconds,
    /// then after twice as long and so on up to 5 seconds, each time shortened by a random part.
    /// It ends when the port is [closed](QmpPort::close) or dropped, if the server
    /// rejects the login or TLS fails, and if it does not speak QMP: `last-error` says
    /// why. The password is not asked for again: the one that was accepted is reused.
    ///
    /// Commands are never repeated: it is not known whether QEMU executed those that failed
    /// with [`Error::Closed`].
    ///
    /// A SPICE server has one client. A port that reconnects disconnects a client that
    /// connected meanwhile, so two of them disconnect each other, with growing pauses.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | [`address`](Self::address) | string | the address to connect to; see [`Address`](crate::Address) |
    /// | [`password`](Self::set_password) | string, write only | the password (ticket) for a SPICE server |
    /// | [`ca-file`](Self::ca_file) | string | a file of certificates (PEM) that are trusted for TLS instead of the system's |
    /// | [`host-subject`](Self::host_subject) | string | the subject that the server's certificate must have for TLS, instead of its host name |
    /// | [`timeout`](Self::timeout) | unsigned, milliseconds | how long connecting may take, and each further attempt; 10,000 by default, 0 for no limit. The time spent waiting for a password does not count |
    /// | [`wait`](Self::wait) | boolean | whether to try again, within the timeout, while there is no server at the address |
    /// | [`reconnect`](Self::reconnect) | unsigned, milliseconds | the pause before connecting again when the connection has ended; 0, the default, means never |
    ///
    /// Passwords and TLS are for SPICE servers only.
    ///
    /// # Signals
    ///
    /// - `need-password (retry: boolean)`: the SPICE server requires a password; `retry` says
    ///   whether it rejected one. Connecting waits until [`answer`](Self::answer) is called, by
    ///   the handler or later. Without a handler, it fails with
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

    /// Connects with the current properties, and waits until the port is ready and its
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
    /// what a SPICE port has asked, for at most the port's `close-timeout`, before it fails.
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
    /// QMP or not. For `cancelled` and the errors see
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

    /// Calls `work` with the current password, and then with those that are asked for.
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
    /// [`ConnectError::Authentication`](crate::ConnectError::Authentication). If several
    /// calls need a password, they ask one after the other. If no password is being asked for,
    /// nothing happens. The property `password` does not change.
    pub fn answer(&self, password: Option<&str>) {
        self.questions().answer(password);
    }

    /// Calls `f` if a SPICE server requires a password; its argument says whether it has
    /// rejected one.
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

    /// Whether the calling thread is the one that created the connector: no other may use it.
    /// For bindings to languages that do not ensure that themselves.
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

/// Builds a [`Connector`] with options.
#[must_use = "a builder does nothing unless it builds"]
pub struct ConnectorBuilder(glib::object::ObjectBuilder<'static, Connector>);

impl ConnectorBuilder {
    /// The password (ticket) for a SPICE server.
    pub fn password(self, password: &str) -> Self {
        Self(self.0.property("password", password))
    }

    /// A file of certificates (PEM) that are trusted for TLS instead of the system's.
    pub fn ca_file(self, path: &str) -> Self {
        Self(self.0.property("ca-file", path))
    }

    /// The subject that the server's certificate must have for TLS, such as
    /// `C=DE,O=Example,CN=host`, instead of the server's host name.
    pub fn host_subject(self, subject: &str) -> Self {
        Self(self.0.property("host-subject", subject))
    }

    /// How long connecting may take, and each further attempt.
    pub fn timeout(self, timeout: Duration) -> Self {
        // 0 would mean no limit.
        Self(self.0.property("timeout", millis(timeout).max(1)))
    }

    /// Whether to try again, within the timeout, while there is no server at the address.
    pub fn wait(self, wait: bool) -> Self {
        Self(self.0.property("wait", wait))
    }

    /// The pause before connecting again when the connection has ended; zero means never.
    pub fn reconnect(self, pause: Duration) -> Self {
        let millis = millis(pause);
        let part = millis == 0 && !pause.is_zero();
        Self(self.0.property("reconnect", millis.max(part.into())))
    }

    /// Builds the connector.
    #[must_use]
    pub fn build(self) -> Connector {
        self.0.build()
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
