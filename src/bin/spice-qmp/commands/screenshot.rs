// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `screenshot`: saves a picture of the machine's screen.

use std::fs;

use serde::Serialize;
use spice_qmp::{Error, Machine, UsageError};

use crate::cli::Screenshot;
use crate::connect::Target;
use crate::failure::{Failure, Kind, Stop};
use crate::output::Output;

/// The saved file, in JSON.
#[derive(Serialize)]
struct Saved<'a> {
    file: &'a str,
    width: u32,
    height: u32,
    bytes: usize,
}

/// Takes a picture and writes it to a file.
pub(crate) async fn run(
    target: &Target,
    screenshot: &Screenshot,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let machine = Machine::new(port);
            let mut picture = machine.screenshot().timeout(monitor.timeout());
            if let Some(device) = &screenshot.device {
                picture = picture.device(device);
            }
            if let Some(head) = screenshot.head {
                picture = picture.head(head);
            }
            let picture = picture.await;
            // QEMU has yet to forget the descriptor.
            port.close().await;
            let png = picture.map_err(explain)?;
            let file = &screenshot.file;
            fs::write(file, &png).map_err(|error| {
                Failure::new(Kind::Output, format!("{}: {error}", file.display()))
            })?;

            let (width, height) = size(&png);
            let file = file.display().to_string();
            if output.is_json() {
                let bytes = png.len();
                let saved = Saved {
                    file: &file,
                    width,
                    height,
                    bytes,
                };
                return output.json(&saved).await;
            }
            output
                .line(format!("Saved {file} ({width} x {height})."))
                .await
        })
        .await
}

/// Adds a hint about what to do next.
fn explain(error: Error) -> Failure {
    let cannot_pass = matches!(&error, Error::Usage(UsageError::NotSupported(_)));
    let failure = Failure::from(error);
    if cannot_pass {
        failure.hint(
            "use the QMP socket (unix:/path) or D-Bus display of this machine; or have QEMU write \
             a file of its own: spice-qmp exec screendump filename=/path format=png",
        )
    } else {
        failure
    }
}

/// The width and height of a PNG file, which are in its header.
fn size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| {
        let bytes = png.get(at..at + 4).and_then(|it| it.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    };
    (number(16), number(20))
}
