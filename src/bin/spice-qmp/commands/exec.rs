//! Any QMP command.

use std::io::Read;

use serde_json::value::RawValue;
use spice_qmp::Error;

use crate::arguments;
use crate::cli::Exec;
use crate::connect::Target;
use crate::failure::{Failure, Stop};
use crate::output::Output;

/// Executes the command and prints what it returns.
pub(crate) async fn run(target: &Target, exec: &Exec, output: &mut Output) -> Result<(), Stop> {
    // What is typed wrongly is reported before anything is connected.
    let arguments = arguments(exec)?;
    target
        .on_port(async |monitor, port| {
            let result = monitor.execute(port, &exec.name, arguments).await;
            output.json_text(result.map_err(explain)?.get()).await
        })
        .await
}

/// Adds what to do next.
fn explain(error: Error) -> Failure {
    let wants_text =
        matches!(&error, Error::Command { desc, .. } if desc.contains("expected: string"));
    let failure = Failure::from(error);
    if wants_text {
        failure.hint("a text that reads as JSON needs quotes, as in id='\"1\"'")
    } else {
        failure
    }
}

fn arguments(exec: &Exec) -> Result<Option<Box<RawValue>>, Failure> {
    let arguments = match &exec.arguments[..] {
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
