// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stands in for `dbus.rs` on systems that cannot pass file descriptors, and refuses each call.
#![allow(clippy::unused_async, reason = "it is async where there are displays")]

use super::options::ConnectOptions;
use crate::port::QmpPort;
use crate::qmp::{Error, UsageError};
use crate::transport::Transport;

pub(super) async fn open(_: Option<&str>, _: &str, _: &ConnectOptions) -> Result<QmpPort, Error> {
    Err(not_supported())
}

pub(super) async fn dial(
    _: Option<&str>,
    _: &str,
    _: &ConnectOptions,
) -> Result<Box<dyn Transport>, Error> {
    Err(not_supported())
}

pub(super) async fn find(
    _: &gio::DBusConnection,
    _: Option<&str>,
    _: &ConnectOptions,
) -> Result<QmpPort, Error> {
    Err(not_supported())
}

fn not_supported() -> Error {
    let text = "a D-Bus display needs file descriptors, which this system cannot pass";
    UsageError::NotSupported(text.into()).into()
}
