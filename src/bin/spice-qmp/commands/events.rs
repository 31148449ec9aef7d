// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `events`: prints QEMU's events as they arrive.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_core::Stream;
use spice_qmp::{Event, EventStream, QmpPort};

use crate::cli::Events;
use crate::connect::Target;
use crate::ending::{End, ended, is_over, report_dropped};
use crate::event_line::EventLine;
use crate::failure::{Failure, Kind, Stop, note};
use crate::output::{Output, writable};
use crate::wait::{over, until};

/// Prints events until the count is reached, or the connection ends.
pub(crate) async fn run(target: &Target, events: &Events, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |_, port| print(port, events, target, output).await)
        .await
}

async fn print(
    port: &QmpPort,
    events: &Events,
    target: &Target,
    output: &mut Output,
) -> Result<(), Stop> {
    let json = output.is_json();
    let end = End::watch_or_report(port, target, move |text| note(json, text));
    let mut over = pin!(over(target.limit));
    let upper: Vec<_> = events.names.iter().map(|it| it.to_uppercase()).collect();
    let names = events.names.iter().chain(&upper).map(String::as_str);
    let mut stream = port.events_named(names);

    let (mut seen, mut in_time) = (0, true);
    while events.count != Some(seen) {
        match next_step(port, &mut stream, over.as_mut(), output).await {
            Step::Writable => output.write_queued().await?,
            Step::Event(event) => {
                report_dropped(output, "events", stream.take_dropped());
                output.queue_json(&EventLine::of(&event))?;
                seen += 1;
            }
            Step::End => break,
            Step::Over => {
                in_time = false;
                break;
            }
        }
    }
    while output.has_queued() {
        output.write_queued().await?;
    }
    match events.count {
        Some(count) if count == seen => Ok(()),
        _ if !in_time => Err(late(seen, events.count, target)),
        Some(count) => Err(ended(port, &format!("after {seen} of {count} events"))),
        None => end.result(port),
    }
}

/// The time of `--timeout` has passed.
fn late(seen: u64, count: Option<u64>, target: &Target) -> Stop {
    let within = format!("within {} ms", target.limit.unwrap_or_default().as_millis());
    let message = match count {
        Some(count) => format!("{seen} of {count} events came {within}"),
        None => format!("QEMU did not end {within} ({seen} events came)"),
    };
    Failure::new(Kind::Timeout, message).into()
}

/// What happens next while events are printed.
enum Step {
    Event(Event),
    /// Some of the queued lines can be written.
    Writable,
    /// The connection has ended, and all events were read.
    End,
    /// The time has passed.
    Over,
}

/// Reads an event before it writes: the output may be slower than QEMU for a while.
async fn next_step(
    port: &QmpPort,
    stream: &mut EventStream,
    mut over: Pin<&mut impl Future<Output = ()>>,
    output: &Output,
) -> Step {
    let mut next = pin!(next_event(port, stream));
    let mut writable = pin!(writable());
    poll_fn(|cx| {
        // The timeout also ends a storm of events.
        if over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Step::Over);
        }
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

/// The next event; `None` when the connection has ended and all events were read.
async fn next_event(port: &QmpPort, stream: &mut EventStream) -> Option<Event> {
    let mut ended = pin!(until(port, &["notify::state"], is_over));
    poll_fn(|cx| match Pin::new(&mut *stream).poll_next(cx) {
        Poll::Pending => ended.as_mut().poll(cx).map(|()| None),
        event @ Poll::Ready(_) => event,
    })
    .await
}
