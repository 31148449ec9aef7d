// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events as lines of JSON.

use serde::Serialize;
use serde_json::value::RawValue;
use spice_qmp::Event;

/// An event in the format that it has in QMP.
#[derive(Debug, Serialize)]
pub(crate) struct EventLine<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    timestamp: Timestamp,
}

#[derive(Debug, Serialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

impl<'a> EventLine<'a> {
    pub(crate) fn of(event: &'a Event) -> Self {
        const MICROS: i64 = 1_000_000;
        let timestamp = match event.timestamp() {
            // As QEMU writes it if its clock fails.
            -1 => Timestamp {
                seconds: -1,
                microseconds: -1,
            },
            micros => Timestamp {
                seconds: micros.div_euclid(MICROS),
                microseconds: micros.rem_euclid(MICROS),
            },
        };
        Self {
            event: event.name(),
            data: event.data().and_then(|_| event.decode().ok()),
            timestamp,
        }
    }
}
