// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `wait`: waits for events and run states, which a command may cause.

use spice_qmp::Error;

use crate::cli::Wait;
use crate::commands::exec;
use crate::connect::Target;
use crate::expected::Expected;
use crate::failure::{Failure, Stop};
use crate::output::Output;

/// Executes the command, if there is one, and waits for the events and states.
pub(crate) async fn run(target: &Target, wait: &Wait, output: &mut Output) -> Result<(), Stop> {
    let expected = Expected::new(&wait.names);
    let command = match wait.command.split_first() {
        Some((name, words)) => {
            let arguments = exec::arguments(words);
            let options = words.iter().any(|word| word.starts_with("--"));
            Some((name, arguments.map_err(|failure| later(failure, options))?))
        }
        None => None,
    };
    target
        .on_port(async |monitor, port| {
            let armed = expected.arm(port, target.limit);
            let Some((name, arguments)) = command else {
                return armed.print(output).await;
            };
            match monitor.execute(port, name, arguments).await {
                // The awaited event may have come before.
                Ok(_) | Err(Error::Closed(_)) => armed.after_command().print(output).await,
                Err(error) => Err(exec::explain(monitor, port, error).await.into()),
            }
        })
        .await
}

/// Adds a hint if options were placed among the arguments.
fn later(failure: Failure, options: bool) -> Failure {
    if options {
        failure.hint("options stand before the --, which begins the command")
    } else {
        failure
    }
}
