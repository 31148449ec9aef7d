// SPDX-License-Identifier: MIT OR Apache-2.0
//! The help texts below the options.

pub(crate) const EXAMPLES: &str = "\
Examples:
  spice-qmp --connect spice://localhost:5900 status
  spice-qmp --connect unix:/run/vm/qmp.sock exec device_del id=disk1

--help explains addresses, passwords, JSON and exit codes.";

pub(crate) const DETAILS: &str = "\
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
  spice://host?port=PORT&tls-port=PORT  a server with both: TLS if it requires that
  spice+unix:///path  the same on a Unix socket
  unix:/path          a QMP socket: -qmp unix:/path,server=on,wait=off
  unix:@name          a QMP socket with an abstract name
  tcp:host:port       a QMP socket: -qmp tcp:host:port,server=on,wait=off
  dbus:               a D-Bus display (-display dbus) of org.qemu on the session bus,
                      with a QMP chardev:
                        -chardev dbus,id=qmp,name=org.qemu.monitor.qmp.0
                        -mon chardev=qmp,mode=control
  dbus:NAME           the same, if QEMU has another name
  dbus:address=ADDRESS,name=NAME  on another bus: -display dbus,addr=ADDRESS
  fd:N                a connected QMP socket that spice-qmp is started with

  QEMU 11.1 announces -object monitor-qmp,id=mon,chardev=qmp in place of -mon
  (untested here).

  SPICE serves one client at a time: connecting disconnects a viewer that is
  connected. A QMP socket or D-Bus chardev does not affect viewers.

Passwords of SPICE servers:
  come from --password-file, or else from SPICE_QMP_PASSWORD in the environment.
  If the server refuses the login, the tool asks for one on a terminal.
  There is no option for the password itself: others could see it.

Certificates of SPICE servers:
  are trusted if they were signed by a CA of the system, or by one in --ca-file FILE
  or, without that option, in ~/.spicec/spice_truststore.pem, as in other SPICE viewers.
  For a CA of your own, use ca-cert.pem of QEMU's x509-dir. The certificate must be for
  the host of the address, or have the subject of --host-subject.

JSON:
  With --json each result is one line of JSON on standard output: one object for
  status, QEMU's return value for commands, one object per line for events, watch,
  job and jobs --follow. An error is one line on standard error:
    {\"error\": {\"kind\": ..., \"class\": ..., \"message\": ..., \"hint\": ...}}
  kind is qmp, output, usage, connection or timeout. class is QEMU's error class
  and present for qmp only; hint is present if there is one. A message that is not
  an error is a line {\"note\": {\"message\": ...}} there.

Transcripts:
  --record FILE appends a line of JSON for each message:
    {\"time\": ..., \"direction\": ..., \"message\": ...}
  direction is sent (a command), received (a return value, an error or an event) or
  local (the state of the connection, or why a command has no answer). Passwords and
  other possible secrets are shown as ***, and so is all text of the human monitor.
  FILE gets mode 0600. It must be new, or a regular file of your own: a symbolic link
  is not followed, and a file with several names (hard links) is not written to.

Leaving:
  QEMU freezes for ever if a SPICE client disconnects while an answer is due. So
  over SPICE the tool waits until QEMU has answered, even after --timeout, Ctrl+C,
  SIGTERM or SIGHUP, and says so. A second signal ends it at once. Execute a command
  that takes long over a QMP socket, which can be disconnected at any time.

Machines that are stopped by an error:
  Over SPICE, QEMU does not answer while the machine is stopped in one of the states
  io-error, guest-panicked, shutdown, watchdog, internal-error, debug,
  finish-migrate, postmigrate and restore-vm. Use a QMP socket then.

Exit codes:
  0  success
  1  QEMU refused the command, or the output cannot be written
  2  the command line is wrong
  3  no connection: unreachable, login refused, no QMP port, not QMP, or closed
  4  no answer within --timeout, or the wait was not over by then
  129, 130, 143  ended by SIGHUP, SIGINT (Ctrl+C), SIGTERM";

pub(crate) const EXEC_DETAILS: &str = "\
A value is JSON if it is valid JSON, and text otherwise: count=3 is a number,
on=true a boolean, id=disk1 a text, and id='\"3\"' the text 3. Keys with dots make
nested objects. Give secrets on standard input: others can see the command line.

The return value is printed as JSON, with its members in QEMU's order and numbers
as QEMU sent them: over several lines on a terminal, in one line in a pipe or with --json.

Several commands are executed over one connection, one after the other, each when its
line has been read: NAME KEY=VALUE ... with the shell's quotes, NAME JSON, or the QMP
{\"execute\": NAME, \"arguments\": {...}}. Empty lines and those that begin with # are
ignored. A file is checked as a whole first. Execution stops at the first command that
QEMU refuses; with --keep-going each refusal is reported, and the exit code is 1.

--wait-for begins to wait before the first command is sent: an event that comes before
the answer counts. It is printed after the answers, as wait prints it. The wait ends when
QEMU exits, or after --timeout.

Examples:
  spice-qmp exec query-block
  spice-qmp exec blockdev-add driver=file node-name=d1 filename=/d1.raw cache.direct=true
  spice-qmp exec device_del '{\"id\": \"disk1\"}'
  spice-qmp exec set_password - < arguments.json
  printf '%s\\n' stop 'device_del id=disk1' cont | spice-qmp exec -
  spice-qmp exec --wait-for BLOCK_JOB_COMPLETED block-commit job-id=j device=d1";

pub(crate) const HMP_DETAILS: &str = "\
Several words are joined by spaces. The text is printed as QEMU's human monitor writes it;
characters that act on the terminal are escaped. With --json it is a JSON string.
QEMU does not report whether such a command has failed: it has if the text begins with
\"Error: \" or \"unknown command:\"; that text goes to standard error, with exit code 1.
Give secrets on standard input: others can see the command line.

Examples:
  spice-qmp hmp info registers
  spice-qmp hmp 'drive_backup -n disk0 /backup.img'
  spice-qmp hmp - < command";

pub(crate) const WAIT_DETAILS: &str = "\
The wait begins before the command is sent, so that nothing is missed. The event is
printed as JSON, and so is the state. Names of run states are in lower case (paused,
shutdown ...); all other names are events (SHUTDOWN, STOP or stop ...). A state that the
machine is in already ends the wait; with a command, it must be in it after that.
The wait ends when QEMU exits, or after --timeout.

Exit codes: 0 if the event or state came, 1 if QEMU refused the command, 3 if the
connection was lost, 4 after --timeout.

Examples:
  spice-qmp wait SHUTDOWN --timeout 60 -- system_powerdown
  spice-qmp wait io-error guest-panicked shutdown
  spice-qmp wait DEVICE_DELETED -- device_del id=disk1";

pub(crate) const EVENTS_DETAILS: &str = "\
Each line is an object with the members event, data and timestamp, as in QMP. If
the output is read too slowly, the oldest events are dropped, and their number is
written to standard error. It ends with success when QEMU exits; with 3 if the
connection is lost, or ends before --count events came; and with 4 after --timeout, if
that is given. With --reconnect neither ends it, unless the server then refuses the login;
events until it is connected again are missed.

Examples:
  spice-qmp events
  spice-qmp events --timeout 60 BLOCK_JOB_COMPLETED
  spice-qmp events --reconnect SHUTDOWN GUEST_PANICKED
  spice-qmp events --count 1 SHUTDOWN GUEST_PANICKED";

pub(crate) const DRIVES_DETAILS: &str = "\
Each line has the drive's name, its properties (fixed or removable, read-only, locked by
the guest, tray open, or why it stopped the machine), and its medium (- is none). With
--json it is an array of objects, which include the ids.

Examples:
  spice-qmp drives
  spice-qmp drives --json | jq -r '.[] | select(.removable).name'";

pub(crate) const INSERT_DETAILS: &str = "\
QEMU opens the file, on the host on which it runs. Give the format of a file that a
guest, or anybody else, could have written to: otherwise QEMU guesses it from the
contents. Without --read-only and --writable the medium is read-only if the previous one
was; the first one is read-only.

Examples:
  spice-qmp insert cd0 /srv/debian.iso --format raw
  spice-qmp insert floppy0 /srv/drivers.img --format raw --writable";

pub(crate) const EJECT_DETAILS: &str = "\
If the guest has locked the tray, it is asked to unlock it, and this fails. --force
is like pulling the disc out of a drive that is being read.

Examples:
  spice-qmp eject cd0
  spice-qmp eject --force cd0";

pub(crate) const JOB_DETAILS: &str = "\
It ends when the job is over, with 1 if that failed. A job-id is added if there is
none. On a terminal a bar shows the progress; with --json each change is a line with the
members of query-jobs and the time, and the last line is {\"completed\": COMMAND}.

Ctrl+C, or the end of --timeout, cancels the job, and waits until it has ended. A job
has no other time limit. Some jobs wait for another command before they end, such as a
mirror for job-complete: give those a job-id. migrate is a job, too.

Examples:
  spice-qmp job blockdev-backup device=disk target=copy sync=full
  spice-qmp job block-commit device=disk
  spice-qmp job --timeout 600 migrate uri=tcp:host:4444";

pub(crate) const JOBS_DETAILS: &str = "\
Each line has the job's id, its type, its status, how much is done, and why it failed.
With --json it is an array of the objects of query-jobs.

--follow shows bars on a terminal, and prints a line for each change otherwise; with
--json an object with the time. Status null means that QEMU has forgotten the job. It
ends with success when QEMU exits; with 3 if the connection is lost, and with 4 after
--timeout, if that is given.

Examples:
  spice-qmp jobs
  spice-qmp exec job-cancel id=backup0
  spice-qmp jobs --follow --json";

pub(crate) const SNAPSHOT_DETAILS: &str = "\
A snapshot holds the memory and all disks that can be written to, which must be able to
store it, as qcow2 files are. QEMU does nothing else meanwhile, and --timeout does not
apply; after Ctrl+C the tool waits for the end. A running machine continues afterwards.

Examples:
  spice-qmp snapshot save before-update
  spice-qmp snapshot list
  spice-qmp snapshot load before-update
  spice-qmp snapshot delete before-update";

pub(crate) const COMMANDS_DETAILS: &str = "\
Arguments in brackets are optional; ... stands for arguments that depend on the value of
another one. With --json it prints the elements of query-qmp-schema.

Examples:
  spice-qmp commands
  spice-qmp commands snapshot";

pub(crate) const SCHEMA_DETAILS: &str = "\
Each argument has its type: bool, int, str, the values of an enum (on|off), an array
([str]), or an object, whose members follow. With --json it prints the elements of
query-qmp-schema: the command, and all types that it refers to.

Examples:
  spice-qmp schema device_del
  spice-qmp schema BLOCK_JOB_COMPLETED";

pub(crate) const SHELL_DETAILS: &str = "\
A line is a command as exec takes it, with quotes as in a shell; a command in QMP's
JSON; or hmp and a command line of the human monitor. On a terminal, Tab completes
commands, arguments, values and ids, events are shown as they come, and .help lists
further commands, such as .drives and .jobs. Empty lines and lines that begin with # are
ignored.

The shell ends when the connection does: with exit code 0 if QEMU has quit, and with 3
otherwise. With --reconnect, which needs a terminal, it stays and connects again. It does
not repeat a command that was not answered, and misses the events in between. It ends
only if the server then refuses the login.

Lines typed on a terminal are saved in ~/.local/state/spice-qmp/history
(XDG_STATE_HOME), except those that contain a secret or begin with a space.

Examples:
  spice-qmp shell
  spice-qmp shell --reconnect
  printf 'stop\\nsystem_reset\\ncont\\n' | spice-qmp shell";

pub(crate) const SHARE_DETAILS: &str = "\
Each client is greeted as by QEMU, negotiates, and uses its own ids; all receive QEMU's
events. Commands are passed on in turn, a few at a time. A client that does not read
what it is sent is disconnected, as is one that does not negotiate within --timeout. File
descriptors cannot be passed (getfd, add-fd). Any client controls the machine: only the
user can connect to the socket.

Example:
  spice-qmp --connect spice://localhost:5900 share unix:/run/user/1000/vm.sock &
  qmp-shell /run/user/1000/vm.sock";
