//! The machine as a whole: its status, and what a power menu does.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connect::Target;
use crate::failure::Stop;
use crate::output::{Output, run_state};

/// What `query-status` returns, and what the tool prints of it.
#[derive(Debug, Serialize, Deserialize)]
struct Status {
    #[serde(rename = "status")]
    state: String,
    running: bool,
    /// QEMU 9.0 and newer do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    singlestep: Option<bool>,
    #[serde(skip_deserializing)]
    qemu: Option<String>,
    #[serde(skip_deserializing)]
    package: Option<String>,
}

/// Prints whether the machine runs, and QEMU's version.
pub(crate) async fn status(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |port| {
            let mut status: Status = port.execute("query-status", ()).await?;
            status.qemu = port.version();
            status.package = port.package().filter(|package| !package.is_empty());
            print_status(&status, output)
        })
        .await
}

fn print_status(status: &Status, output: &mut Output) -> Result<(), Stop> {
    if output.is_json() {
        return output.json(status);
    }
    let state = run_state(&status.state, status.running);
    output.line(format_args!("state    {state}"))?;
    let running = if status.running { "yes" } else { "no" };
    output.line(format_args!("running  {running}"))?;
    let version = status.qemu.as_deref().unwrap_or("unknown");
    match &status.package {
        Some(package) => output.line(format_args!("QEMU     {version} ({package})")),
        None => output.line(format_args!("QEMU     {version}")),
    }
}

/// Gives a command that takes no arguments and returns nothing.
pub(crate) async fn act(
    target: &Target,
    command: &str,
    done: &str,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |port| {
            let result = port.execute(command, ()).await?;
            print_done(&result, done, output)
        })
        .await
}

/// Ends QEMU, and stays until it is gone: one that ends should be told nothing more.
pub(crate) async fn quit(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |port| {
            let result = port.execute("quit", ()).await?;
            let asked = Instant::now();
            while port.ready() && asked.elapsed() < END_TIMEOUT {
                glib::timeout_future(Duration::from_millis(5)).await;
            }
            print_done(&result, "QEMU ends.", output)
        })
        .await
}

fn print_done(result: &Value, done: &str, output: &mut Output) -> Result<(), Stop> {
    if output.is_json() {
        output.json(result)
    } else {
        output.line(done)
    }
}

/// How long QEMU is waited for that has promised to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);
