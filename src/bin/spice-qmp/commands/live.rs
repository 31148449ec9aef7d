//! What goes on until the connection ends: events and changes of the state.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use futures_core::Stream;
use serde::Serialize;
use serde_json::value::RawValue;
use spice_qmp::{Condition, ConditionCode, Event, EventStream, Machine, QmpPort, Status};

use crate::cli::Events;
use crate::commands::machine::Reason;
use crate::connect::Target;
use crate::failure::{Failure, Stop, note};
use crate::feed::Feed;
use crate::output::{Output, writable};
use crate::style::{Line, run_state_style};
use crate::wait::until;

/// An event in the form that it has in QMP.
#[derive(Debug, Serialize)]
struct EventLine<'a> {
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

/// A state in the form of `watch --json`.
#[derive(Debug, Serialize)]
struct StatusLine<'a> {
    /// When the tool learned of it, in UTC.
    time: &'a str,
    status: &'a str,
    running: bool,
}

/// Why the machine stopped, in the form of `watch --json`.
#[derive(Debug, Serialize)]
struct ReasonLine<'a> {
    time: &'a str,
    condition: Reason,
}

/// What `watch` prints.
enum News {
    Status(Status),
    Condition(Condition),
    /// The connection has ended.
    End,
}

/// Prints events until there were enough, or the connection ends.
pub(crate) async fn events(
    target: &Target,
    events: &Events,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |_, port| print_events(port, events, output).await)
        .await
}

async fn print_events(port: &QmpPort, events: &Events, output: &mut Output) -> Result<(), Stop> {
    let end = End::watch(port);
    let upper: Vec<_> = events.names.iter().map(|it| it.to_uppercase()).collect();
    let names = events.names.iter().chain(&upper).map(String::as_str);
    let mut stream = port.events_named(names);

    let mut left = events.count;
    while left != Some(0) {
        match next_step(port, &mut stream, output).await {
            Step::Writable => output.write_queued().await?,
            Step::Event(event) => {
                report_dropped(output, "events", stream.take_dropped());
                output.queue_json(&EventLine::of(&event))?;
                left = left.map(|left| left - 1);
            }
            Step::End => break,
        }
    }
    while output.has_queued() {
        output.write_queued().await?;
    }
    match (events.count, left) {
        (Some(_), Some(0)) => Ok(()),
        (Some(count), left) => {
            let seen = count - left.unwrap_or(0);
            Err(ended(port, &format!("after {seen} of {count} events")))
        }
        (None, _) => end.result(port),
    }
}

/// What comes next while events are printed.
enum Step {
    Event(Event),
    /// Some of the queued lines can be written.
    Writable,
    /// The connection has ended, and all events were taken.
    End,
}

/// Takes an event before it writes: the output may be slower than QEMU for a while.
async fn next_step(port: &QmpPort, stream: &mut EventStream, output: &Output) -> Step {
    let mut next = pin!(next_event(port, stream));
    let mut writable = pin!(writable());
    poll_fn(|cx| {
        if output.has_room()
            && let Poll::Ready(event) = next.as_mut().poll(cx)
        {
            return Poll::Ready(event.map_or(Step::End, Step::Event));
        }
        if output.has_queued() {
            return writable.as_mut().poll(cx).map(|()| Step::Writable);
        }
        Poll::Pending
    })
    .await
}

/// The next event; nothing when the connection has ended, and all events were taken.
async fn next_event(port: &QmpPort, stream: &mut EventStream) -> Option<Event> {
    let mut ended = pin!(until(port, &["notify::ready"], |port| !port.ready()));
    poll_fn(|cx| match Pin::new(&mut *stream).poll_next(cx) {
        Poll::Pending => ended.as_mut().poll(cx).map(|()| None),
        event @ Poll::Ready(_) => event,
    })
    .await
}

/// Prints the state, and again whenever it changes, and why the machine stopped.
pub(crate) async fn watch(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let end = End::watch(port);
            let machine = Machine::new(port);
            let feed = feed_news(port, &machine);
            if port.status().is_none() {
                // Either it comes now, or the server refuses to say.
                let reply = monitor.execute(port, "query-status", ()).await?;
                feed.push(News::Status(Status::from_json(reply.get())?));
            }
            let mut last = None;
            loop {
                let news = feed.next().await;
                report_dropped(output, "changes of the state", feed.take_dropped());
                match news {
                    News::Status(status) => {
                        if last.as_ref() != Some(&status) {
                            print_status(&status, output).await?;
                            last = Some(status);
                        }
                    }
                    News::Condition(condition) => print_condition(&condition, output).await?,
                    News::End => return end.result(port),
                }
            }
        })
        .await
}

/// The states of the machine, why it stopped, and the end of the connection.
fn feed_news(port: &QmpPort, machine: &Machine) -> Feed<News> {
    let feed = Feed::new();
    let push = {
        let feed = feed.clone();
        move |port: &QmpPort| {
            if let Some(status) = port.status() {
                feed.push(News::Status(status));
            }
        }
    };
    push(port);
    port.connect_status_notify(push);
    machine.connect_condition_notify({
        let feed = feed.clone();
        move |machine| match machine.condition() {
            // The tool's last words say more.
            Some(lost) if lost.code() == ConditionCode::ConnectionLost => {}
            Some(condition) => feed.push(News::Condition(condition)),
            None => {}
        }
    });
    let push_end = {
        let feed = feed.clone();
        move |port: &QmpPort| {
            if !port.ready() {
                feed.push(News::End);
            }
        }
    };
    push_end(port);
    port.connect_ready_notify(push_end);
    feed
}

async fn print_status(status: &Status, output: &mut Output) -> Result<(), Stop> {
    let (name, running) = (status.status(), status.running());
    if output.is_json() {
        let (time, status) = (&utc(), name);
        return output
            .json(&StatusLine {
                time,
                status,
                running,
            })
            .await;
    }
    let line = Line::from(local_time().as_str()).plain("  ");
    output
        .line(line.styled(name, run_state_style(name, running)))
        .await
}

async fn print_condition(condition: &Condition, output: &mut Output) -> Result<(), Stop> {
    if output.is_json() {
        let (time, condition) = (&utc(), Reason::of(condition));
        return output.json(&ReasonLine { time, condition }).await;
    }
    let line = Line::from(local_time().as_str()).plain("  ");
    output.line(line.plain(condition.message())).await
}

fn utc() -> String {
    let time = glib::DateTime::now_utc().and_then(|now| now.format("%Y-%m-%dT%H:%M:%S.%fZ"));
    time.map(String::from).unwrap_or_default()
}

fn local_time() -> String {
    let time = glib::DateTime::now_local().and_then(|now| now.format("%H:%M:%S"));
    time.map(String::from).unwrap_or_default()
}

/// Says that the output is read more slowly than QEMU writes.
fn report_dropped(output: &Output, what: &str, dropped: u64) {
    if dropped > 0 {
        let message = format!("{dropped} {what} were lost: the output is read too slowly");
        note(output.is_json(), &message);
    }
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
            data: event.decode().ok(),
            timestamp,
        }
    }
}

/// How a connection ends: with QEMU, or by accident.
struct End {
    shutdown: Rc<Cell<bool>>,
}

impl End {
    fn watch(port: &QmpPort) -> Self {
        let shutdown = Rc::new(Cell::new(false));
        port.connect_qmp_event(Some("SHUTDOWN"), {
            let shutdown = shutdown.clone();
            move |_, _| shutdown.set(true)
        });
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
