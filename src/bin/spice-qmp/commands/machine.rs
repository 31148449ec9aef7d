// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands for the machine as a whole: its status, and a power menu.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use glib::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};
use spice_qmp::{Condition, Error, Machine, QmpPort, Status};

use crate::connect::Target;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::style::{Line, run_state_style};
use crate::wait::until;

/// The reply to `query-status`, and QEMU's version.
#[derive(Debug, Serialize)]
struct StatusLine {
    #[serde(flatten)]
    reply: Map<String, Value>,
    qemu: Option<String>,
    package: Option<String>,
    /// Why the machine is not running, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Reason>,
}

/// A condition in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Reason {
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    message: String,
}

/// Prints whether the machine is running, and QEMU's version.
pub(crate) async fn status(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            // Connecting has just queried it.
            match port.status().filter(|_| !output.is_json()) {
                Some(status) => print_status(&status, port, output).await,
                None => show(monitor, port, output).await,
            }
        })
        .await
}

/// Queries the run state, and prints it with QEMU's version.
pub(crate) async fn show(
    monitor: &Monitor,
    port: &QmpPort,
    output: &mut Output,
) -> Result<(), Stop> {
    let reply = monitor.execute(port, "query-status", ()).await?;
    let status = Status::from_json(reply.get())?;
    if !output.is_json() {
        return print_status(&status, port, output).await;
    }
    let condition = condition_in(status.status(), port).await;
    let line = StatusLine {
        reply: serde_json::from_str(reply.get()).unwrap_or_default(),
        qemu: port.version(),
        package: package(port),
        condition: condition.as_ref().map(Reason::of),
    };
    output.json(&line).await
}

async fn print_status(status: &Status, port: &QmpPort, output: &mut Output) -> Result<(), Stop> {
    let (state, running) = (status.status(), status.running());
    let condition = condition_in(state, port).await;
    let version = port.version().unwrap_or_else(|| "unknown".to_owned());
    let qemu = match package(port) {
        Some(package) => format!("QEMU     {version} ({package})"),
        None => format!("QEMU     {version}"),
    };
    let reason = condition.map(|it| Line::from(format!("reason   {}", it.message())));
    let lines = [
        Line::from("state    ").styled(state, run_state_style(state, running)),
        Line::from(if running {
            "running  yes"
        } else {
            "running  no"
        }),
        Line::from(qemu),
    ];
    output.lines(lines.into_iter().chain(reason)).await
}

fn package(port: &QmpPort) -> Option<String> {
    port.package().filter(|package| !package.is_empty())
}

/// Why the machine is in a run state that has a reason.
async fn condition_in(state: &str, port: &QmpPort) -> Option<Condition> {
    let machine = match state {
        "io-error" | "guest-panicked" | "watchdog" | "internal-error" | "shutdown"
        | "postmigrate" => Machine::new(port),
        _ => return None,
    };
    let known = until(&machine, &["notify::condition"], |machine| {
        machine.condition().is_some()
    });
    glib::future_with_timeout(QUESTION_TIMEOUT, known)
        .await
        .ok()?;
    machine.condition()
}

impl Reason {
    pub(crate) fn of(condition: &Condition) -> Self {
        let code = condition.code().to_value();
        let value = glib::EnumValue::from_value(&code);
        let (_, value) = value.expect("a code is a value of its enum");
        Self {
            code: value.nick().to_owned(),
            subject: condition.subject().map(str::to_owned),
            message: condition.message().to_owned(),
        }
    }
}

/// Executes a command of the power menu, and prints its effect: QEMU accepts
/// most of these commands in every state, but in some states they have no effect.
pub(crate) async fn act(target: &Target, command: &str, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let shutdown = Rc::new(Cell::new(false));
            port.connect_qmp_event(Some("SHUTDOWN"), {
                let shutdown = shutdown.clone();
                move |_, _| shutdown.set(true)
            });
            let before = port.status().map(|it| it.status().to_owned());
            let result = monitor.execute(port, command, ()).await;
            let result = result.map_err(|error| explain(command, error))?;
            if output.is_json() {
                return output.json_text(result.get()).await;
            }
            let state = match command {
                // QEMU may exit, and must not be asked then.
                _ if shutdown.get() => Some("shutdown".to_owned()),
                "stop" | "cont" | "system_wakeup" => state_now(port).await,
                _ => before,
            };
            output.line(outcome(command, state.as_deref())).await
        })
        .await
}

/// The run state, if the server reports it. A SPICE port may be muted by now.
async fn state_now(port: &QmpPort) -> Option<String> {
    let status = port.query_status().timeout(QUESTION_TIMEOUT).await.ok()?;
    Some(status.status().to_owned())
}

/// The effect of a command that QEMU accepted. `state` is the current state of the machine,
/// or the previous one for a command that may end QEMU.
fn outcome(command: &str, state: Option<&str>) -> String {
    let done = match command {
        "stop" => "Paused.",
        "cont" => "Resumed.",
        "system_reset" => "Reset.",
        "system_wakeup" => "Woken up.",
        "inject-nmi" => "Interrupt sent.",
        _ => "The guest was asked to power down; it may take its time, or ignore it.",
    };
    let when_over = "The machine waits for a migration (inmigrate); when that is over, it will";
    match (command, state) {
        ("stop", Some("paused")) | ("system_reset", Some("inmigrate" | "finish-migrate")) => {
            done.into()
        }
        ("stop", Some("running")) => "Paused, but the machine was resumed again.".into(),
        ("stop", Some("inmigrate")) => format!("{when_over} be paused."),
        ("cont", Some("inmigrate")) => format!("{when_over} run."),
        ("stop" | "cont", Some("suspended")) => {
            "The guest has suspended the machine: spice-qmp wakeup wakes it.".into()
        }
        ("stop", Some(state)) => format!("The machine is stopped already ({state})."),
        ("stop" | "cont" | "system_wakeup", None) => {
            format!("{done} QEMU has not said in which state the machine is now.")
        }
        (_, None | Some("running")) => done.into(),
        ("cont", Some(state)) => format!("Resumed, but the machine stopped again ({state})."),
        ("system_reset", Some("shutdown")) => {
            "The machine was shut down in place of a reset, or was shut down before.".into()
        }
        ("system_reset", Some(_)) => {
            "Reset. The machine is stopped: spice-qmp resume lets it run.".into()
        }
        (_, Some(state)) => format!("{done} The machine does not run ({state})."),
    }
}

/// Adds a hint about what to do next.
fn explain(command: &str, error: Error) -> Failure {
    let needs_reset =
        matches!(&error, Error::Command { desc, .. } if desc.contains("Resetting the Virtual"));
    let failure = Failure::from(error);
    if command == "cont" && needs_reset {
        failure.hint("the guest has shut down: spice-qmp reset, then spice-qmp resume")
    } else {
        failure
    }
}

/// Quits QEMU, and waits until it has exited: no command should be sent meanwhile.
pub(crate) async fn quit(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let result = monitor.execute(port, "quit", ()).await?;
            let ended = until(port, &["notify::ready"], |port| !port.ready());
            // If it is still there, it has promised to exit all the same.
            let _ = glib::future_with_timeout(END_TIMEOUT, ended).await;
            if output.is_json() {
                output.json_text(result.get()).await
            } else {
                output.line("QEMU ends.").await
            }
        })
        .await
}

/// How long the tool waits for the state after a command.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for QEMU to exit after `quit`.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expected::RUN_STATES;

    #[test]
    fn success_is_reported_only_if_the_state_confirms_it() {
        for state in RUN_STATES {
            let says = |command: &str| outcome(command, Some(state));
            assert_eq!(says("stop") == "Paused.", state == "paused", "{state}");
            assert_eq!(says("cont") == "Resumed.", state == "running", "{state}");
            assert_eq!(says("system_wakeup") == "Woken up.", state == "running");
        }
        assert!(outcome("stop", None).contains("not said"));
        assert!(outcome("cont", Some("inmigrate")).contains("will run"));
        assert!(outcome("stop", Some("inmigrate")).contains("will be paused"));
        assert!(outcome("stop", Some("shutdown")).contains("already (shutdown)"));
        assert!(outcome("cont", Some("io-error")).contains("stopped again (io-error)"));
        assert!(outcome("system_reset", Some("paused")).contains("stopped"));
    }
}
