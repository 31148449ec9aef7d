//! `spice-qmp`: controls and watches QEMU's virtual machines from the shell.

mod arguments;
mod cli;
mod commands;
mod connect;
mod failure;
mod feed;
mod hints;
mod log;
mod output;
mod password;
mod tls;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::report(&error),
    };
    log::quieten();
    let mut output = Output::new(cli.json);
    let end = glib::MainContext::default().block_on(commands::run(&cli, &mut output));
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.report(cli.json),
    }
}
