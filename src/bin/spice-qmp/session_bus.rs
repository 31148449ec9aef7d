// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds QEMUs on the session bus, for a hint if no address is given.

use std::env;
use std::time::Duration;

use gio::DBusConnectionFlags;

/// How long to wait for the bus: this is only for a hint.
const TIMEOUT: Duration = Duration::from_millis(500);

/// How many addresses are shown.
const SHOWN: usize = 3;

/// The addresses of the QEMUs with a D-Bus display there.
pub(crate) async fn qemus() -> Vec<String> {
    let names = glib::future_with_timeout(TIMEOUT, names()).await;
    // Without a bus there is none.
    let names = names.ok().and_then(Result::ok).unwrap_or_default();
    let qemus = names.iter().filter_map(|name| match name.as_str() {
        "org.qemu" => Some("dbus:".to_owned()),
        name if name.starts_with("org.qemu.") => Some(format!("dbus:{name}")),
        _ => None,
    });
    qemus.take(SHOWN).collect()
}

/// The names on the bus.
async fn names() -> Result<Vec<String>, glib::Error> {
    let Some(address) = address() else {
        return Ok(Vec::new());
    };
    let flags =
        DBusConnectionFlags::AUTHENTICATION_CLIENT | DBusConnectionFlags::MESSAGE_BUS_CONNECTION;
    let bus = gio::DBusConnection::for_address_future(&address, flags, None).await?;
    // The tool does not exit when the bus does.
    bus.set_exit_on_close(false);
    let reply = bus.call_future(
        Some("org.freedesktop.DBus"),
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "ListNames",
        None,
        None,
        gio::DBusCallFlags::NONE,
        -1,
    );
    Ok(reply.await?.get::<(Vec<String>,)>().unwrap_or_default().0)
}

/// The address of the session bus, if it is running: it is not started.
fn address() -> Option<String> {
    let variable = |name| env::var(name).ok().filter(|text| !text.is_empty());
    let address = variable("DBUS_SESSION_BUS_ADDRESS").or_else(|| {
        let folder = gio::dbus_address_escape_value(&variable("XDG_RUNTIME_DIR")?);
        Some(format!("unix:path={folder}/bus"))
    });
    address.filter(|address| address.starts_with("unix:"))
}
