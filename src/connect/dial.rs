// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects a port to its connector's address, repeatedly.

#[cfg(feature = "spice")]
use std::rc::Rc;

use super::address::Address;
use super::login::Login;
use super::options::ConnectOptions;
#[cfg(feature = "spice")]
use super::owned_session::{self, OwnedSession};
#[cfg(feature = "spice")]
use super::spice;
use super::{dbus, socket};
use crate::port::QmpPort;
use crate::qmp::Error;
#[cfg(feature = "spice")]
use crate::qmp::UsageError;
use crate::transport::{Transport, on_stream};

/// An address, and what is needed to connect to it.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) address: Address,
    pub(super) options: ConnectOptions,
    pub(super) login: Login,
}

/// Receives the transport at once, so that nothing that it reports is missed.
pub(super) type Adopt = dyn Fn(Box<dyn Transport>);

impl Dial {
    /// Connects, and passes the transport on.
    pub(super) async fn connect(
        &self,
        options: &ConnectOptions,
        adopt: &Adopt,
    ) -> Result<(), Error> {
        match &self.address {
            #[cfg(feature = "spice")]
            Address::Spice(uri) => {
                let owned = self.session(uri, adopt)?;
                let session = owned.session();
                let attach = Rc::new(move |channel: &_| owned.attach(channel));
                spice::attach(session, options, attach).await?;
            }
            Address::Dbus { bus, name } => {
                adopt(dbus::dial(bus.as_deref(), name, options).await?);
            }
            address => {
                let connection = socket::connect(address, options).await?;
                adopt(on_stream(&connection));
            }
        }
        Ok(())
    }

    /// [`connect`](Self::connect) to a SPICE server, until `port`, which has received the
    /// transport, is ready and its status is known. `None` for other addresses.
    #[cfg(feature = "spice")]
    pub(super) async fn find(&self, port: &QmpPort, adopt: &Adopt) -> Option<Result<(), Error>> {
        let Address::Spice(uri) = &self.address else {
            return None;
        };
        let owned = match self.session(uri, adopt) {
            Ok(owned) => owned,
            Err(error) => return Some(Err(error)),
        };
        let session = owned.session();
        let attach = Rc::new(move |channel: &_| owned.attach(channel));
        let usable = spice::wait_usable(session, &self.options, attach, |_| port.clone());
        Some(usable.await.map(drop))
    }

    #[cfg(not(feature = "spice"))]
    #[allow(clippy::unused_async, reason = "it is async where there is SPICE")]
    pub(super) async fn find(&self, _: &QmpPort, _: &Adopt) -> Option<Result<(), Error>> {
        None
    }

    /// The names of the ports of a SPICE server, until `cancelled` ends.
    #[cfg(feature = "spice")]
    pub(super) async fn port_names(
        &self,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Vec<String>, Error> {
        let Address::Spice(uri) = &self.address else {
            let text = format!("{} is not a SPICE server", self.address);
            return Err(UsageError::InvalidArgument(text.into()).into());
        };
        let session = self.login.session(uri)?;
        owned_session::port_names(session, &self.options, cancelled).await
    }

    /// Whether another password may help after the login was refused like this.
    pub(super) fn may_ask(
        &self,
        #[cfg_attr(not(feature = "spice"), allow(unused_variables))] refused: &str,
    ) -> bool {
        match &self.address {
            #[cfg(feature = "spice")]
            Address::Spice(uri) => Login::may_ask(uri, refused),
            _ => false,
        }
    }

    #[cfg(feature = "spice")]
    fn session(&self, uri: &str, adopt: &Adopt) -> Result<OwnedSession, Error> {
        let owned = OwnedSession::new(&self.login.session(uri)?);
        adopt(Box::new(owned.clone()));
        Ok(owned)
    }

    /// Whether the port's transport can send file descriptors.
    pub(super) fn carries_fds(&self) -> bool {
        let local = matches!(
            self.address,
            Address::Unix(_) | Address::Abstract(_) | Address::Dbus { .. }
        );
        local && cfg!(unix)
    }
}
