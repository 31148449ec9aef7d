// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `exec`: executes QMP commands.

use std::io::Read;

use serde_json::value::RawValue;
use spice_qmp::{Error, ErrorClass, QmpPort};

use crate::arguments;
use crate::cli::Exec;
use crate::connect::Target;
use crate::expected::Expected;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::script::{Command, Script};
use crate::suggest;

/// Executes the commands, prints what they return, and then the awaited events and states.
pub(crate) async fn run(target: &Target, exec: &Exec, output: &mut Output) -> Result<(), Stop> {
    // Typing errors are reported before connecting.
    let mut script = match (&exec.file, exec.name.as_deref()) {
        (Some(file), _) => Script::read(file)?,
        (None, Some("-")) if exec.arguments.is_empty() => Script::from_stdin(),
        (None, name) => Script::of(Command {
            name: name.unwrap_or_default().to_owned(),
            arguments: arguments(&exec.arguments)?,
            line: None,
        }),
    };
    let expected = Expected::new(&exec.wait_for);
    target
        .on_port(async |monitor, port| {
            let armed = expected.arm(port, target.limit);
            let mut failed = false;
            while let Some(command) = script.next().await? {
                match execute(monitor, port, command, output).await {
                    Err(Stop::Failed(failure)) if exec.keep_going && failure.is_refusal() => {
                        failure.report(output.is_json());
                        failed = true;
                    }
                    result => result?,
                }
            }
            if !expected.is_empty() {
                armed.after_command().print(output).await?;
            }
            if failed { Err(Stop::Reported) } else { Ok(()) }
        })
        .await
}

async fn execute(
    monitor: &Monitor,
    port: &QmpPort,
    command: Command,
    output: &mut Output,
) -> Result<(), Stop> {
    let Command {
        name,
        arguments,
        line,
    } = command;
    if line.is_some() && name == "qmp_capabilities" {
        // Scripts for a bare socket begin with it. It has been done already.
        return output.json_text("{}").await;
    }
    match monitor.execute(port, &name, arguments).await {
        Ok(reply) => output.json_text(reply.get()).await,
        Err(error) => {
            let failure = explain(monitor, port, error).await;
            Err(failure.in_line(line).into())
        }
    }
}

/// Adds a hint about what to do next.
pub(crate) async fn explain(monitor: &Monitor, port: &QmpPort, error: Error) -> Failure {
    let hint = match &error {
        Error::Command { desc, .. } if desc.contains("expected: string") => {
            Some("a text that reads as JSON needs quotes, as in id='\"1\"'".to_owned())
        }
        Error::Command { class, command, .. } if *class == ErrorClass::CommandNotFound => {
            suggest::similar_commands(monitor, port, command).await
        }
        _ => None,
    };
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The arguments of a command as they were typed.
pub(crate) fn arguments(words: &[String]) -> Result<Option<Box<RawValue>>, Failure> {
    let arguments = match words {
        [dash] if dash == "-" => from_stdin().map(Some),
        words => arguments::parse(words),
    };
    arguments.map_err(|error| {
        Failure::usage(error).hint("spice-qmp exec --help shows how to write them")
    })
}

fn from_stdin() -> Result<Box<RawValue>, String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("standard input: {error}"))?;
    arguments::parse_object(&text)
}
