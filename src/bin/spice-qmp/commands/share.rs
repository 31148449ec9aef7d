// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `share`: serves one monitor to many clients.

mod hub;
mod listen;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use gio::SocketListener;
use gio::prelude::*;
use serde_json::json;
use spice_qmp::QmpPort;
use spice_qmp::qmp::{Greeting, Version};

use crate::cli::Share;
use crate::connect::Target;
use crate::ending::End;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::wait::until;
use hub::Hub;
use listen::{Listen, Source};

/// The pause after a client could not be accepted because descriptors ran out.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves clients until the connection to QEMU ends.
pub(crate) async fn run(target: &Target, share: &Share, output: &mut Output) -> Result<(), Stop> {
    let listen = Listen::parse(&share.address)?;
    let timeout = target.timeout();
    target
        .on_port(async |monitor, port| {
            let end = End::watch(port);
            let hub = Hub::new(port, greeting(monitor, port).await?, timeout);
            let source = listen.open()?;
            announce(&listen, output).await?;
            let mut served = pin!(serve(&hub, &source));
            let mut ended = pin!(until(port, &["notify::ready"], |port| !port.ready()));
            let lost = poll_fn(|cx| {
                if ended.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                served.as_mut().poll(cx).map(|()| false)
            })
            .await;
            hub.finish().await;
            if lost { end.result(port) } else { Ok(()) }
        })
        .await
}

/// The greeting of the monitor. Another client may have received the original.
async fn greeting(monitor: &Monitor, port: &QmpPort) -> Result<Greeting, Stop> {
    let version = monitor.execute(port, "query-version", ()).await?;
    let version: Version = serde_json::from_str(version.get())
        .map_err(|error| Failure::connection(format!("query-version: {error}")))?;
    Ok(Greeting {
        version,
        capabilities: port
            .capabilities()
            .iter()
            .map(ToString::to_string)
            .collect(),
    })
}

/// Announces that clients can connect.
async fn announce(listen: &Listen, output: &mut Output) -> Result<(), Stop> {
    let address = listen.to_string();
    if output.is_json() {
        return output.json(&json!({ "listening": address })).await;
    }
    output
        .line(format!("listening on {address}").as_str())
        .await
}

/// Serves clients that connect; if there can be only one, ends with that.
async fn serve(hub: &Rc<Hub>, source: &Source) {
    match source {
        Source::Client(connection) => hub.serve(connection).await,
        Source::Listener { listener, .. } => accept(hub, listener).await,
    }
}

async fn accept(hub: &Rc<Hub>, listener: &SocketListener) {
    loop {
        match listener.accept_future().await {
            Ok((connection, _)) => {
                let hub = hub.clone();
                glib::spawn_future_local(async move { hub.serve(&connection).await });
            }
            Err(_) => glib::timeout_future(PAUSE).await,
        }
    }
}
