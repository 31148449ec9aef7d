// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `watch`: prints the machine's state whenever it changes.

use std::pin::pin;

use serde::Serialize;
use spice_qmp::{Condition, ConditionCode, Machine, QmpPort, Status};

use crate::clock::{local_time, utc_now};
use crate::commands::machine::Reason;
use crate::connect::Target;
use crate::ending::{End, is_over, report_dropped};
use crate::failure::{Failure, Kind, Stop, note};
use crate::feed::Feed;
use crate::output::Output;
use crate::style::{Line, run_state_style};
use crate::wait::{before, over};

/// A state in the form of `watch --json`.
#[derive(Debug, Serialize)]
struct StatusLine<'a> {
    /// When the tool received it, in UTC.
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
    /// The connection has ended, and the tool connects again.
    Lost,
    /// The connection has ended.
    End,
}

/// Prints the state, and again whenever it changes, and why the machine stopped.
pub(crate) async fn run(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let json = output.is_json();
            let end = End::watch_or_report(port, target, move |text| note(json, text));
            let machine = Machine::new(port);
            let feed = feed_news(port, &machine);
            if port.status().is_none() {
                // Either it arrives now, or the server refuses to report it.
                let reply = monitor.execute(port, "query-status", ()).await?;
                feed.push(News::Status(Status::from_json(reply.get())?));
            }
            let mut last = None;
            let mut over = pin!(over(target.limit));
            loop {
                let Some(news) = before(over.as_mut(), feed.next()).await else {
                    return Err(late(target));
                };
                report_dropped(output, "changes of the state", feed.take_dropped());
                match news {
                    News::Status(status) => {
                        if last.as_ref() != Some(&status) {
                            print_status(&status, output).await?;
                            last = Some(status);
                        }
                    }
                    News::Condition(condition) => print_condition(&condition, output).await?,
                    // The same state is news on a new connection.
                    News::Lost => last = None,
                    News::End => return end.result(port),
                }
            }
        })
        .await
}

/// The time of `--timeout` has passed.
fn late(target: &Target) -> Stop {
    let millis = target.limit.unwrap_or_default().as_millis();
    Failure::new(
        Kind::Timeout,
        format!("QEMU did not end within {millis} ms"),
    )
    .into()
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
            // The tool's last message has more details.
            Some(lost) if lost.code() == ConditionCode::ConnectionLost => {}
            Some(condition) => feed.push(News::Condition(condition)),
            None => {}
        }
    });
    let push_end = {
        let feed = feed.clone();
        move |port: &QmpPort| {
            if is_over(port) {
                feed.push(News::End);
            } else if !port.ready() {
                feed.push(News::Lost);
            }
        }
    };
    push_end(port);
    port.connect_state_notify(push_end);
    feed
}

async fn print_status(status: &Status, output: &mut Output) -> Result<(), Stop> {
    let (name, running) = (status.status(), status.running());
    if output.is_json() {
        let (time, status) = (&utc_now(), name);
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
        let (time, condition) = (&utc_now(), Reason::of(condition));
        return output.json(&ReasonLine { time, condition }).await;
    }
    let line = Line::from(local_time().as_str()).plain("  ");
    output.line(line.plain(condition.message())).await
}
