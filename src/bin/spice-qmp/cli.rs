// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.
#![allow(clippy::doc_markdown, reason = "clap prints the comments as they are")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::details::{
    COMMANDS_DETAILS, DETAILS, DRIVES_DETAILS, EJECT_DETAILS, EVENTS_DETAILS, EXAMPLES,
    EXEC_DETAILS, HMP_DETAILS, INSERT_DETAILS, JOB_DETAILS, JOBS_DETAILS, SCHEMA_DETAILS,
    SHARE_DETAILS, SHELL_DETAILS, SNAPSHOT_DETAILS, WAIT_DETAILS,
};
use crate::failure::Failure;
use crate::style::{acts_on_terminals, escaped};

/// Controls and watches a QEMU virtual machine through its QMP monitor, over
/// SPICE, a socket or D-Bus.
#[derive(Debug, Parser)]
#[command(name = "spice-qmp", version, after_help = EXAMPLES, after_long_help = DETAILS)]
pub(crate) struct Cli {
    /// Where the virtual machine is: spice://host:port, spice+unix:///path,
    /// unix:/path, tcp:host:port, dbus:NAME or fd:N
    #[arg(
        short,
        long,
        alias = "address",
        global = true,
        value_name = "ADDRESS",
        env = "SPICE_QMP_ADDRESS",
        hide_env_values = true
    )]
    pub(crate) connect: Option<String>,

    /// Results and errors as JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How long to wait for the connection, and for each answer [default: 10]; for
    /// events, watch, wait, job and jobs --follow: how long at most
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,

    /// Wait for a server that is not there yet, within the timeout
    #[arg(long, global = true)]
    pub(crate) wait: bool,

    /// Log in to the SPICE server with the first line of this file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,

    /// Trust the certificates (PEM) in this file, for spice+tls://
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// The subject that the server's certificate must have, instead of the host's name
    #[arg(long, global = true, value_name = "SUBJECT")]
    pub(crate) host_subject: Option<String>,

    /// Append what is sent and received to this file, without secrets
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads the command line.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        // On an error, parse again with all commands, which gives better messages.
        Self::read_one(std::env::args_os().collect()).map_or_else(Self::try_parse, Ok)
    }

    /// Reads it with a parser that has only the command in question: clap copies the global
    /// options into each command, and 27 commands make that a third of the tool's own work
    /// at a start.
    fn read_one(words: Vec<OsString>) -> Option<Self> {
        let all = Self::command();
        let mut names = words.iter().skip(1);
        let command = names.find_map(|word| all.find_subcommand(word))?;
        let one = clap::Command::new("spice-qmp")
            .args(all.get_arguments().cloned())
            .subcommand(command.clone());
        let matches = one.try_get_matches_from(words).ok()?;
        Self::from_arg_matches(&matches).ok()
    }

    /// Whether to connect again when the connection ends.
    pub(crate) fn reconnects(&self) -> bool {
        match &self.command {
            Command::Events(events) => events.reconnect,
            Command::Watch(watch) => watch.reconnect,
            Command::Shell(shell) => shell.reconnect,
            _ => false,
        }
    }

    /// How long the connection and each answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show whether the machine runs, and QEMU's version
    Status,
    /// Stop the virtual CPUs
    Pause,
    /// Resume the virtual CPUs
    Resume,
    /// Reset the machine, as the reset button does
    Reset,
    /// Ask the guest to shut down, as the power button does; it may ignore that
    Powerdown,
    /// Quit QEMU at once, like pulling the plug
    Quit,
    /// Wake a suspended guest
    Wakeup,
    /// Send the guest a non-maskable interrupt
    Nmi,
    /// Execute any QMP command, and print what it returns
    Exec(Exec),
    /// Execute a command of the human monitor, and print its text
    Hmp(Hmp),
    /// Print QEMU's events as they come, one line of JSON each
    Events(Events),
    /// Wait for an event or a run state, which a command may cause
    Wait(Wait),
    /// Print the machine's state, and again whenever it changes
    ///
    /// Ends with success when QEMU exits, with 3 if the connection is lost, and with 4
    /// after --timeout, if that is given.
    Watch(Watch),
    /// Save a picture of the screen as a PNG file
    ///
    /// QEMU (7.1 or later) writes it through a file descriptor, so the file is created here
    /// and not where QEMU runs. That needs a Unix socket or a D-Bus display.
    Screenshot(Screenshot),
    /// Unplug a device, and wait until the guest has released it
    ///
    /// The guest may refuse, which ends with 1, or not respond within --timeout, which ends
    /// with 4.
    Unplug(Unplug),
    /// List the drives and the media in them
    #[command(after_help = DRIVES_DETAILS)]
    Drives,
    /// Insert a medium into a drive, in place of the current one
    Insert(Insert),
    /// Open the tray of a drive, and remove its medium
    Eject(Eject),
    /// Execute a command that starts a job, and wait until the job is over
    Job(JobArgs),
    /// List QEMU's background jobs, such as backups
    Jobs(Jobs),
    /// Save, load and delete snapshots of the machine and its disks
    #[command(subcommand, after_help = SNAPSHOT_DETAILS)]
    Snapshot(SnapshotAction),
    /// List the SPICE server's ports, and which of them speak QMP
    Ports,
    /// Execute commands from a terminal or a script, one a line
    ///
    /// A script ends with its first command that fails, and with its exit code.
    Shell(Shell),
    /// List the commands of this QEMU, with their arguments
    Commands(Commands),
    /// Show the arguments and return value of a command, or the data of an event
    Schema(SchemaOf),
    /// Serve the machine's one monitor to many QMP clients
    ///
    /// Ends with success when QEMU exits, and with 3 if the connection is lost.
    Share(Share),
}

#[derive(Debug, Args)]
#[command(after_help = EXEC_DETAILS)]
pub(crate) struct Exec {
    /// The command, such as query-block; or - to read commands from standard input, one
    /// on each line
    #[arg(required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// Its arguments: key=value ..., one JSON object, or - to read that from
    /// standard input
    #[arg(value_name = "KEY=VALUE|JSON|-")]
    pub(crate) arguments: Vec<String>,
    /// Execute the commands in this file, one on each line
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub(crate) file: Option<PathBuf>,
    /// Continue after a command that QEMU refused
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Then wait for this event, or run state, and print it; may be given several times
    #[arg(long, value_name = "EVENT|STATE")]
    pub(crate) wait_for: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = HMP_DETAILS)]
pub(crate) struct Hmp {
    /// The command line, such as "info registers"; or - to read it from standard input
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = EVENTS_DETAILS)]
pub(crate) struct Events {
    /// The events to print, such as STOP; all if none is named
    pub(crate) names: Vec<String>,
    /// End after this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Connect again when the connection ends, for as long as it takes
    #[arg(long)]
    pub(crate) reconnect: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Connect again when the connection ends, for as long as it takes
    #[arg(long)]
    pub(crate) reconnect: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WAIT_DETAILS)]
pub(crate) struct Wait {
    /// Events, such as STOP, or run states, such as paused: whichever comes first
    #[arg(required = true, value_name = "EVENT|STATE")]
    pub(crate) names: Vec<String>,
    /// A command that is executed when the wait has begun, with its arguments as for exec
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Screenshot {
    /// The file, such as screen.png, which is replaced if it exists
    pub(crate) file: PathBuf,
    /// The display device, by its id, instead of the first one
    #[arg(long, value_name = "ID")]
    pub(crate) device: Option<String>,
    /// The head of the device, counted from 0
    #[arg(long, value_name = "N", requires = "device")]
    pub(crate) head: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Unplug {
    /// The id of the device, or its path
    pub(crate) id: String,
}

#[derive(Debug, Args)]
#[command(after_help = INSERT_DETAILS)]
pub(crate) struct Insert {
    /// The name or id of the drive, as spice-qmp drives has it
    pub(crate) drive: String,
    /// A file on the machine where QEMU runs
    pub(crate) file: String,
    /// The format of the file, such as raw or qcow2, instead of a guess
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Do not let the guest write to the medium
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Let the guest write to the medium
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) writable: bool,
    /// Open the tray even if the guest has locked it (QEMU 7.1 and later)
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EJECT_DETAILS)]
pub(crate) struct Eject {
    /// The name or id of the drive, as spice-qmp drives has it
    pub(crate) drive: String,
    /// Open the tray even if the guest has locked it
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = JOB_DETAILS)]
pub(crate) struct JobArgs {
    /// The command, such as blockdev-backup
    #[arg(value_name = "COMMAND")]
    pub(crate) name: String,
    /// Its arguments, as for exec
    #[arg(value_name = "KEY=VALUE|JSON|-")]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = JOBS_DETAILS)]
pub(crate) struct Jobs {
    /// Continue, and show their progress
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotAction {
    /// List them
    List,
    /// Save the current state of the machine and its disks
    Save {
        /// A name that no snapshot has yet
        tag: String,
    },
    /// Return to a snapshot; the current state of the machine and its disks is lost
    Load {
        /// The name of the snapshot
        tag: String,
    },
    /// Delete a snapshot
    Delete {
        /// The name of the snapshot
        tag: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = SHELL_DETAILS)]
pub(crate) struct Shell {
    /// Connect again when the connection ends, for as long as it takes; for a terminal
    #[arg(long)]
    pub(crate) reconnect: bool,
}

#[derive(Debug, Args)]
#[command(after_help = COMMANDS_DETAILS)]
pub(crate) struct Commands {
    /// Only the commands with this in their name
    pub(crate) word: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = SCHEMA_DETAILS)]
pub(crate) struct SchemaOf {
    /// A command or an event, such as blockdev-add or BLOCK_JOB_COMPLETED
    pub(crate) name: String,
}

#[derive(Debug, Args)]
#[command(after_help = SHARE_DETAILS)]
pub(crate) struct Share {
    /// Where clients connect: unix:/path, which is created, or fd:N, a socket that the
    /// tool inherited
    #[arg(value_name = "LISTEN_ADDRESS")]
    pub(crate) address: String,
}

/// Reports an invalid command line, or prints the requested help.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // It fails if standard output is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let message = text.lines().next().unwrap_or_default();
        return Failure::usage(message)
            .hint("spice-qmp --help shows how to use it")
            .report(true);
    }
    if error.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        anstream::eprint!("spice-qmp: ");
    }
    anstream::eprint!("{}", without_controls(error));
    ExitCode::from(2)
}

/// The text of an error, which quotes arguments. They may come from someone other than the
/// user: characters that act on terminals are escaped.
fn without_controls(error: &clap::Error) -> String {
    let arguments = std::env::args_os().map(|it| it.to_string_lossy().into_owned());
    let unsafe_arguments: Vec<_> = arguments
        .filter(|it| it.chars().any(acts_on_terminals))
        .collect();
    if unsafe_arguments.is_empty() {
        return error.render().ansi().to_string();
    }
    let mut text = error.to_string();
    for argument in unsafe_arguments {
        text = text.replace(&argument, &escaped(&argument));
    }
    text.split_inclusive('\n')
        .map(|line| escaped(line.trim_end_matches('\n')) + "\n")
        .collect()
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (SHORTEST..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not between {SHORTEST} and {LONGEST}"))
    }
}

/// GLib's timers count whole milliseconds, in 32 bits.
const SHORTEST: f64 = 0.001;
const LONGEST: f64 = 1_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_of_one_command_reads_what_the_whole_one_reads() {
        let words = |line: &str| {
            let words = ["spice-qmp"].into_iter().chain(line.split(' '));
            words.map(OsString::from).collect::<Vec<_>>()
        };
        for line in [
            "status",
            "status --json --timeout 3",
            "--connect unix:/a --wait exec device_del id=status",
            "exec status status",
            "snapshot save status",
            "wait STOP -- stop",
            "events --reconnect STOP",
            "--record log jobs --follow",
        ] {
            let one = Cli::read_one(words(line)).expect(line);
            let all = Cli::try_parse_from(words(line)).expect(line);
            assert_eq!(format!("{one:?}"), format!("{all:?}"), "{line}");
        }
        for line in [
            "",
            "statu",
            "status x",
            "--help status",
            "status --help",
            "help status",
            "--record status jobs",
            "--timeout x status",
            "snapshot",
            "wait",
        ] {
            assert!(Cli::read_one(words(line)).is_none(), "{line}");
        }
    }
}
