// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands: each takes a port and prints its result.

mod drives;
mod events;
mod exec;
mod hmp;
mod job;
mod jobs;
mod machine;
mod model;
mod ports;
mod schema;
mod screenshot;
mod share;
mod shell;
mod snapshot;
mod unplug;
mod wait;
mod watch;

use std::rc::Rc;

use crate::cli::{Cli, Command};
use crate::connect::Target;
use crate::failure::Stop;
use crate::monitor::Monitor;
use crate::output::Output;
use crate::record;

pub(crate) async fn run(cli: &Cli, monitor: &Rc<Monitor>, output: &mut Output) -> Result<(), Stop> {
    let target = Target::new(cli, monitor).await?;
    if let Some(file) = &cli.record {
        record::start(file, cli.json)?;
    }
    match &cli.command {
        Command::Status => machine::status(&target, output).await,
        Command::Pause => machine::act(&target, "stop", output).await,
        Command::Resume => machine::act(&target, "cont", output).await,
        Command::Reset => machine::act(&target, "system_reset", output).await,
        Command::Powerdown => machine::act(&target, "system_powerdown", output).await,
        Command::Quit => machine::quit(&target, output).await,
        Command::Wakeup => machine::act(&target, "system_wakeup", output).await,
        Command::Nmi => machine::act(&target, "inject-nmi", output).await,
        Command::Exec(exec) => exec::run(&target, exec, output).await,
        Command::Hmp(hmp) => hmp::run(&target, hmp, output).await,
        Command::Events(events) => events::run(&target, events, output).await,
        Command::Wait(wait) => wait::run(&target, wait, output).await,
        Command::Watch(_) => watch::run(&target, output).await,
        Command::Screenshot(screenshot) => screenshot::run(&target, screenshot, output).await,
        Command::Unplug(unplug) => unplug::run(&target, unplug, output).await,
        Command::Drives => drives::list(&target, output).await,
        Command::Insert(insert) => drives::insert(&target, insert, output).await,
        Command::Eject(eject) => drives::eject(&target, eject, output).await,
        Command::Job(args) => job::run(&target, args, output).await,
        Command::Jobs(jobs) => jobs::run(&target, jobs, output).await,
        Command::Snapshot(action) => snapshot::run(&target, action, output).await,
        Command::Ports => ports::list(&target, output).await,
        Command::Shell(_) => shell::run(&target, output).await,
        Command::Commands(args) => schema::list(&target, args, output).await,
        Command::Schema(args) => schema::describe(&target, args, output).await,
        Command::Share(share) => share::run(&target, share, output).await,
    }
}
