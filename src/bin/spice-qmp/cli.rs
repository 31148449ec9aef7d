//! The command line.
#![allow(clippy::doc_markdown, reason = "clap prints the comments as they are")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

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
    /// events, watch and wait: how long at most
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
    /// Let the virtual CPUs run
    Resume,
    /// Reset the machine, as the reset button does
    Reset,
    /// Ask the guest to shut down, as the power button does; it may ignore that
    Powerdown,
    /// End QEMU at once, as pulling the plug does
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
    /// Wait for an event or a run state, which a command may lead to
    Wait(Wait),
    /// Print the machine's state, and again whenever it changes
    ///
    /// Ends with success when QEMU ends, with 3 when the connection is lost, and with 4
    /// after --timeout, if that is given.
    Watch,
    /// Save a picture of the screen as a PNG file
    ///
    /// QEMU (7.1 or later) writes it through a file descriptor, so the file is made here
    /// and not where QEMU runs. That needs a Unix socket or a D-Bus display.
    Screenshot(Screenshot),
    /// Unplug a device, and wait until the guest has let go of it
    ///
    /// The guest may refuse, which ends with 1, or not react within --timeout, which ends
    /// with 4.
    Unplug(Unplug),
    /// List the SPICE server's ports, and which of them speak QMP
    Ports,
    /// Execute commands from a terminal or a script, one a line
    ///
    /// A script ends with its first command that fails, and with its exit code.
    #[command(after_help = SHELL_DETAILS)]
    Shell,
    /// List the commands of this QEMU, with their arguments
    Commands(Commands),
    /// Show what a command takes and returns, or what comes with an event
    Schema(SchemaOf),
    /// Serve the machine's one monitor to many QMP clients
    ///
    /// Ends with success when QEMU ends, and with 3 when the connection is lost.
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
    /// Go on after a command that QEMU refused
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
#[command(after_help = COMMANDS_DETAILS)]
pub(crate) struct Commands {
    /// Only those with this in their name
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
    /// Where clients connect: unix:/path, which is made, or fd:N, a socket that the
    /// tool was started with
    #[arg(value_name = "LISTEN_ADDRESS")]
    pub(crate) address: String,
}

/// Reports a command line that was wrong, or prints the help that was asked for.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // It fails where standard output is closed.
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

/// The text of an error, which repeats arguments. Who typed them may not have written
/// them: what acts on terminals is escaped.
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

const EXAMPLES: &str = "\
Examples:
  spice-qmp --connect spice://localhost:5900 status
  spice-qmp --connect unix:/run/vm/qmp.sock exec device_del id=disk1

--help explains addresses, passwords, JSON and exit codes.";

const DETAILS: &str = "\
Examples:
  spice-qmp --connect spice://localhost:5900 status
  export SPICE_QMP_ADDRESS=spice+unix:///run/vm/spice.sock
  spice-qmp pause
  spice-qmp exec device_del id=disk1
  spice-qmp exec query-block | jq '.[].device'
  spice-qmp events --count 1 SHUTDOWN

Addresses:
  spice://host:port   a SPICE server; it must offer a QMP port:
                        -chardev spiceport,id=qmp,name=org.qemu.monitor.qmp.0
                        -mon chardev=qmp,mode=control
  spice+tls://host:port  the same over TLS: -spice tls-port=port,x509-dir=...
  spice://host?port=PORT&tls-port=PORT  a server with both: TLS where it wants that
  spice+unix:///path  the same on a Unix socket
  unix:/path          a QMP socket: -qmp unix:/path,server=on,wait=off
  unix:@name          a QMP socket with an abstract name
  tcp:host:port       a QMP socket: -qmp tcp:host:port,server=on,wait=off
  dbus:               a D-Bus display (-display dbus) of org.qemu on the session bus,
                      with a QMP chardev:
                        -chardev dbus,id=qmp,name=org.qemu.monitor.qmp.0
                        -mon chardev=qmp,mode=control
  dbus:NAME           the same, where QEMU has another name
  dbus:address=ADDRESS,name=NAME  on another bus: -display dbus,addr=ADDRESS
  fd:N                a connected QMP socket that spice-qmp is started with

  QEMU 11.1 announces -object monitor-qmp,id=mon,chardev=qmp in place of -mon
  (untested here).

  SPICE serves one client at a time: to connect ends the session of a viewer
  that is connected. A QMP socket or D-Bus chardev leaves viewers alone.

Passwords of SPICE servers:
  come from --password-file, or else from SPICE_QMP_PASSWORD in the environment.
  Where the server refuses the login and a person sits at the terminal, they are
  asked. There is no option for the password itself: others could see it.

Certificates of SPICE servers:
  are trusted where a CA of the system signed them, or one in --ca-file FILE, or,
  without that, in ~/.spicec/spice_truststore.pem, as for other SPICE viewers. For a
  CA of your own that is ca-cert.pem of QEMU's x509-dir. The certificate must be for
  the host of the address, or have the subject of --host-subject.

JSON:
  With --json each result is one line of JSON on standard output: one object for
  status, QEMU's return value for commands, one object per line for events and
  watch. An error is one line on standard error:
    {\"error\": {\"kind\": ..., \"class\": ..., \"message\": ..., \"hint\": ...}}
  kind is qmp, output, usage, connection or timeout. class is QEMU's error class
  and comes with qmp only; hint comes where there is one. What is no error is a
  line {\"note\": {\"message\": ...}} there.

Transcripts:
  --record FILE appends a line of JSON for each message:
    {\"time\": ..., \"direction\": ..., \"message\": ...}
  direction is sent (a command), received (a return value, an error or an event) or
  local (the state of the connection, or why a command has no answer). Passwords and
  what else may be a secret are shown as ***, and so is all text of the human monitor.
  FILE gets mode 0600. It must be new, or a regular file of your own: a symbolic link
  is not followed, and a file with several names (hard links) is not written to.

Leaving:
  QEMU freezes for ever when a SPICE client goes away while it owes an answer. So
  over SPICE the tool stays until QEMU has answered, also after --timeout, Ctrl+C,
  SIGTERM or SIGHUP, and says so. A second signal ends it at once. A command that
  takes long is better executed over a QMP socket, which may be left at any time.

Machines that are stopped by an error:
  Over SPICE, QEMU says nothing while the machine is stopped in one of the states
  io-error, guest-panicked, shutdown, watchdog, internal-error, debug,
  finish-migrate, postmigrate and restore-vm. Use a QMP socket then.

Exit codes:
  0  success
  1  QEMU refused the command, or the output cannot be written
  2  the command line is wrong
  3  no connection: unreachable, login refused, no QMP port, not QMP, or closed
  4  no answer, or no end of what was waited for, within --timeout
  129, 130, 143  ended by SIGHUP, SIGINT (Ctrl+C), SIGTERM";

const EXEC_DETAILS: &str = "\
Values are JSON where they read as JSON, and text otherwise: count=3 is a number,
on=true a boolean, id=disk1 a text, and id='\"3\"' the text 3. Keys with dots make
nested objects. Give secrets on standard input: others can see the command line.

The return value is printed as JSON, with its members in QEMU's order and numbers
as they came: over several lines on a terminal, in one line in a pipe or with --json.

Several commands are executed over one connection, one after the other, each when its
line has come: NAME KEY=VALUE ... with the shell's quotes, NAME JSON, or the QMP
{\"execute\": NAME, \"arguments\": {...}}. Empty lines and those that begin with # are
left out. A file is checked first as a whole. They end at the first one that QEMU refuses;
with --keep-going each refusal is reported, and 1 is the exit code in the end.

--wait-for begins to wait before the first command is sent: an event that comes before
the answer counts. It is printed after the answers, as wait prints it. It is waited for
until QEMU ends, or for --timeout.

Examples:
  spice-qmp exec query-block
  spice-qmp exec blockdev-add driver=file node-name=d1 filename=/d1.raw cache.direct=true
  spice-qmp exec device_del '{\"id\": \"disk1\"}'
  spice-qmp exec set_password - < arguments.json
  printf '%s\\n' stop 'device_del id=disk1' cont | spice-qmp exec -
  spice-qmp exec --wait-for BLOCK_JOB_COMPLETED block-commit job-id=j device=d1";

const HMP_DETAILS: &str = "\
Several words are joined by spaces. The text is printed as QEMU's human monitor has it;
what would act on the terminal is written as an escape. With --json it is a JSON text.
QEMU does not say whether such a command has failed: it has where the text begins with
\"Error: \" or \"unknown command:\"; that text goes to standard error, with exit code 1.
Give secrets on standard input: others can see the command line.

Examples:
  spice-qmp hmp info registers
  spice-qmp hmp 'drive_backup -n disk0 /backup.img'
  spice-qmp hmp - < command";

const WAIT_DETAILS: &str = "\
The wait begins before the command is sent, so that nothing is missed. The event is
printed as JSON, and so is the state. Names of run states in lower case are those
(paused, shutdown ...), all other names are events (SHUTDOWN, STOP or stop ...). A state
that the machine is in already ends the wait; with a command, if it is in it after that.
It waits until QEMU ends, or for --timeout.

Exit codes: 0 where it came, 1 where QEMU refused the command, 3 where the connection
was lost, 4 after --timeout.

Examples:
  spice-qmp wait SHUTDOWN --timeout 60 -- system_powerdown
  spice-qmp wait io-error guest-panicked shutdown
  spice-qmp wait DEVICE_DELETED -- device_del id=disk1";

const EVENTS_DETAILS: &str = "\
Each line is an object with the members event, data and timestamp, as in QMP. Where
the output is read too slowly, the oldest events are dropped, and their number is
written to standard error. It ends when QEMU does, with success; with 3 when the
connection is lost, or ends before --count events came; and with 4 after --timeout, if
that is given.

Examples:
  spice-qmp events
  spice-qmp events --timeout 60 BLOCK_JOB_COMPLETED
  spice-qmp events --count 1 SHUTDOWN GUEST_PANICKED";

const COMMANDS_DETAILS: &str = "\
Arguments in brackets may be left out; ... stands for those that depend on the value of
another one. With --json it prints the elements of query-qmp-schema.

Examples:
  spice-qmp commands
  spice-qmp commands snapshot";

const SCHEMA_DETAILS: &str = "\
Each argument has its type: bool, int, str, the values of an enum (on|off), an array
([str]), or an object, whose members follow. With --json it prints the elements of
query-qmp-schema: the command, and all types that it refers to.

Examples:
  spice-qmp schema device_del
  spice-qmp schema BLOCK_JOB_COMPLETED";

const SHELL_DETAILS: &str = "\
A line is a command as exec takes it, with quotes as in a shell; a command in JSON as
QMP has it; or hmp and a command line of the human monitor. On a terminal, Tab completes
commands, arguments, values and ids, events are shown as they come, and .help lists what
else there is. Empty lines and lines that begin with # are left out.

The lines of a terminal are kept in ~/.local/state/spice-qmp/history (XDG_STATE_HOME),
but for those that hold a secret or begin with a space.

Examples:
  spice-qmp shell
  printf 'stop\\nsystem_reset\\ncont\\n' | spice-qmp shell";

const SHARE_DETAILS: &str = "\
Each client is greeted as by QEMU, negotiates, and uses ids of its own; all get QEMU's
events. Commands are passed on in turn, a few at a time. A client that does not read
what it is sent is left, as is one that does not negotiate within --timeout. Files
cannot be passed (getfd, add-fd). Whoever can connect controls the machine: the socket
is the user's alone.

Example:
  spice-qmp --connect spice://localhost:5900 share unix:/run/user/1000/vm.sock &
  qmp-shell /run/user/1000/vm.sock";
