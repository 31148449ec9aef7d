//! The commands: each takes a port and prints its result.

mod exec;
mod live;
mod machine;
mod ports;

use std::rc::Rc;

use crate::cli::{Cli, Command};
use crate::connect::Target;
use crate::failure::Stop;
use crate::monitor::Monitor;
use crate::output::Output;

pub(crate) async fn run(cli: &Cli, monitor: &Rc<Monitor>, output: &mut Output) -> Result<(), Stop> {
    let target = Target::new(cli, monitor)?;
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
        Command::Events(events) => live::events(&target, events, output).await,
        Command::Watch => live::watch(&target, output).await,
        Command::Ports => ports::list(&target, output).await,
    }
}
