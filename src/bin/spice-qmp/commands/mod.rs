//! The commands: each takes a port and prints its result.

mod exec;
mod live;
mod machine;
mod ports;

use crate::cli::{Cli, Command};
use crate::connect::Target;
use crate::failure::Stop;
use crate::output::Output;

pub(crate) async fn run(cli: &Cli, output: &mut Output) -> Result<(), Stop> {
    let target = Target::new(cli)?;
    match &cli.command {
        Command::Status => machine::status(&target, output).await,
        Command::Pause => machine::act(&target, "stop", "Paused.", output).await,
        Command::Resume => machine::act(&target, "cont", "Resumed.", output).await,
        Command::Reset => machine::act(&target, "system_reset", "Reset.", output).await,
        Command::Powerdown => {
            let done = "The guest was asked to power down; it may take its time, or ignore it.";
            machine::act(&target, "system_powerdown", done, output).await
        }
        Command::Quit => machine::quit(&target, output).await,
        Command::Wakeup => machine::act(&target, "system_wakeup", "Woken up.", output).await,
        Command::Nmi => machine::act(&target, "inject-nmi", "Interrupt sent.", output).await,
        Command::Exec(exec) => exec::run(&target, exec, output).await,
        Command::Events(events) => live::events(&target, events, output).await,
        Command::Watch => live::watch(&target, output).await,
        Command::Ports => ports::list(&target, output).await,
    }
}
