// SPDX-License-Identifier: MIT OR Apache-2.0
//! `spice-qmp`: controls and watches QEMU's virtual machines from the shell.

mod arguments;
mod bars;
mod cli;
mod clock;
mod commands;
mod connect;
mod details;
mod ending;
mod event_line;
mod expected;
mod failure;
mod feed;
mod help_files;
mod hints;
mod inherited;
mod job_line;
#[cfg(target_os = "linux")]
mod json_glib;
mod json_text;
#[cfg(feature = "spice")]
mod leave;
mod log;
#[cfg(feature = "spice")]
mod login;
mod monitor;
#[cfg(feature = "spice")]
mod opening;
mod output;
#[cfg(feature = "spice")]
mod password;
mod record;
mod schema;
mod script;
mod session_bus;
mod signals;
#[cfg(all(feature = "spice", target_os = "linux"))]
mod spice_gtk;
mod style;
mod suggest;
mod table;
mod tls;
mod trust;
mod wait;
mod words;

use std::process::ExitCode;
use std::rc::Rc;

use cli::Cli;
use failure::Stop;
#[cfg(feature = "spice")]
use failure::signal_exit_code;
use monitor::Monitor;
use output::Output;

fn main() -> ExitCode {
    if let Some(folder) = help_files::folder() {
        return match help_files::write(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Stop::from(error).report(false),
        };
    }
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return cli::report(&error),
    };
    log::take_over();
    glib::MainContext::default().block_on(run(&cli))
}

/// Executes the command line, reports failures, and disconnects without harming QEMU.
async fn run(cli: &Cli) -> ExitCode {
    let mut output = Output::new(cli.json);
    let monitor = Rc::new(Monitor::new(cli.timeout()));
    let work = commands::run(cli, &monitor, &mut output);
    let end = monitor.signals.or(work).await;
    let end = end.unwrap_or_else(|signal| Err(Stop::Signal(signal)));
    let code = match &end {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.report(cli.json),
    };
    #[cfg(feature = "spice")]
    if let Err(signal) = leave::leave(&monitor, &end, cli.json).await {
        return signal_exit_code(signal);
    }
    code
}
