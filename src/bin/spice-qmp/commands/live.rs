//! What goes on until the connection ends: events and changes of the state.

use std::cell::Cell;
use std::rc::Rc;

use serde::Serialize;
use serde_json::Value;
use spice_qmp::{Event, QmpPort, Status};

use crate::cli::Events;
use crate::connect::Target;
use crate::failure::{Failure, Stop};
use crate::feed::Feed;
use crate::output::{Output, run_state};

/// An event in the form that it has in QMP.
#[derive(Debug, Serialize)]
struct EventLine<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    timestamp: Timestamp,
}

#[derive(Debug, Serialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

/// A state in the form of `watch --json`.
#[derive(Debug, Serialize)]
struct StatusLine<'a> {
    /// When the tool learned of it, in UTC.
    time: &'a str,
    status: &'a str,
    running: bool,
}

/// Prints events until there were enough, or the connection ends.
pub(crate) async fn events(
    target: &Target,
    events: &Events,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |port| print_events(port, events, output).await)
        .await
}

async fn print_events(port: &QmpPort, events: &Events, output: &mut Output) -> Result<(), Stop> {
    let feed = Feed::new();
    port.connect_qmp_event(None, {
        let feed = feed.clone();
        move |_, event| feed.push(Some(event.clone()))
    });
    let end = End::watch(port, &feed);

    let mut left = events.count;
    while left != Some(0) {
        let Some(event) = feed.next().await else {
            return match events.count {
                Some(count) => {
                    let seen = count - left.unwrap_or(0);
                    Err(ended(port, &format!("after {seen} of {count} events")))
                }
                None => end.result(port),
            };
        };
        if is_wanted(&event, &events.names) {
            output.json(&EventLine::of(&event))?;
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}

/// Prints the state, and again whenever it changes.
pub(crate) async fn watch(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |port| {
            let feed = Feed::new();
            feed_status(port, &feed);
            port.connect_status_notify({
                let feed = feed.clone();
                move |port| feed_status(port, &feed)
            });
            let end = End::watch(port, &feed);
            while let Some(status) = feed.next().await {
                print_status(&status, output)?;
            }
            end.result(port)
        })
        .await
}

fn feed_status(port: &QmpPort, feed: &Feed<Option<Status>>) {
    if let Some(status) = port.status() {
        feed.push(Some(status));
    }
}

fn print_status(status: &Status, output: &mut Output) -> Result<(), Stop> {
    let (name, running) = (status.status(), status.running());
    if output.is_json() {
        let time = glib::DateTime::now_utc().and_then(|now| now.format("%Y-%m-%dT%H:%M:%S.%fZ"));
        return output.json(&StatusLine {
            time: time.as_deref().unwrap_or_default(),
            status: name,
            running,
        });
    }
    let time = glib::DateTime::now_local().and_then(|now| now.format("%H:%M:%S"));
    let time = time.as_deref().unwrap_or_default();
    output.line(format_args!("{time}  {}", run_state(name, running)))
}

/// Whether the event is one of these names, in capitals or not.
fn is_wanted(event: &Event, names: &[String]) -> bool {
    names.is_empty()
        || names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(event.name()))
}

impl<'a> EventLine<'a> {
    fn of(event: &'a Event) -> Self {
        const MICROS: i64 = 1_000_000;
        let timestamp = match event.timestamp() {
            // As QEMU writes it where its clock fails.
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
            data: event.decode().ok().filter(|data| *data != Value::Null),
            timestamp,
        }
    }
}

/// How a connection ends: with QEMU, or by accident.
struct End {
    shutdown: Rc<Cell<bool>>,
}

impl End {
    /// Puts `None` at the end of `feed` when the connection ends.
    fn watch<T: 'static>(port: &QmpPort, feed: &Feed<Option<T>>) -> Self {
        let shutdown = Rc::new(Cell::new(false));
        port.connect_qmp_event(Some("SHUTDOWN"), {
            let shutdown = shutdown.clone();
            move |_, _| shutdown.set(true)
        });
        port.connect_ready_notify({
            let feed = feed.clone();
            move |port| {
                if !port.ready() {
                    feed.push(None);
                }
            }
        });
        if !port.ready() {
            feed.push(None);
        }
        Self { shutdown }
    }

    /// Success where the machine was shut down first.
    fn result(&self, port: &QmpPort) -> Result<(), Stop> {
        if self.shutdown.get() {
            return Ok(());
        }
        Err(ended(port, "and the machine was not shut down"))
    }
}

fn ended(port: &QmpPort, when: &str) -> Stop {
    let reason = port.last_error();
    let reason = reason
        .as_ref()
        .map_or("the connection ended", |error| error.message());
    Failure::connection(format!("{reason} ({when})")).into()
}
