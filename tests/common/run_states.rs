// SPDX-License-Identifier: MIT OR Apache-2.0
//! Machines that reach each run state within milliseconds, as often as a test needs.
//!
//! The firmware is the whole guest: it sleeps, and performs one action at each NMI.
//!
//! ```ignore
//! let mut machine = RunState::GUEST_PANICKED.start(&program); // runs
//! machine.reach();  // the guest panics, and QEMU says `guest-panicked`
//! machine.resume(); // it runs again
//! ```

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::qemu::{Config, Monitor, Program, Qemu};

/// A run state, and how a machine reaches it.
#[derive(Clone, Copy)]
pub struct RunState {
    /// Its name in `query-status`.
    pub name: &'static str,
    /// Whether a SPICE port is mute in it.
    pub mute: bool,
    way: Way,
    /// The error of the disk.
    errno: u32,
}

const ENOSPC: u32 = 28;
const EIO: u32 = 5;

/// What makes a machine leave `running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is started in this state.
    Started(&'static str),
    Nothing,
    Stop,
    StopThenReset,
    /// A reset of a machine that is not to restart.
    ResetToEnd,
    Migrate,
    MigrateUntilSwitchover,
    /// The guest causes it.
    Nmi(Guest),
    Debugger,
    FailedSnapshotLoad,
}

/// The guest's action at an NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    Idle,
    Panic,
    PowerOff,
    Restart,
    Sleep,
    StartWatchdog,
    WriteSector,
    ReadSector,
    LetGo,
    KeepMemory,
    LockTray,
    EjectMedium,
    Count,
}

impl RunState {
    pub const RUNNING: Self = Self::answering("running", Way::Nothing);
    pub const PRELAUNCH: Self = Self::answering("prelaunch", Way::Started("-S"));
    pub const RESET: Self = Self::answering("prelaunch", Way::StopThenReset);
    pub const PAUSED: Self = Self::answering("paused", Way::Stop);
    pub const INMIGRATE: Self = Self::answering("inmigrate", Way::Started("-incoming"));
    pub const SUSPENDED: Self = Self::answering("suspended", Way::Nmi(Guest::Sleep));
    pub const FINISH_MIGRATE: Self = Self::mute("finish-migrate", Way::MigrateUntilSwitchover);
    pub const POSTMIGRATE: Self = Self::mute("postmigrate", Way::Migrate);
    pub const SHUTDOWN: Self = Self::mute("shutdown", Way::Nmi(Guest::PowerOff));
    pub const IO_ERROR: Self = Self::mute("io-error", Way::Nmi(Guest::WriteSector));
    pub const GUEST_PANICKED: Self = Self::mute("guest-panicked", Way::Nmi(Guest::Panic));
    pub const WATCHDOG: Self = Self::mute("watchdog", Way::Nmi(Guest::StartWatchdog));
    pub const DEBUG: Self = Self::mute("debug", Way::Debugger);
    pub const RESTORE_VM: Self = Self::mute("restore-vm", Way::FailedSnapshotLoad);

    /// Like `IO_ERROR`, but the disk is broken, not full.
    pub const WRITE_ERROR: Self = Self::mute("io-error", Way::Nmi(Guest::WriteSector)).on(EIO);
    pub const READ_ERROR: Self = Self::mute("io-error", Way::Nmi(Guest::ReadSector)).on(EIO);
    /// Like `SHUTDOWN`, but the guest or the host wanted to restart.
    pub const RESTARTED: Self = Self::mute("shutdown", Way::Nmi(Guest::Restart));
    pub const RESET_TO_END: Self = Self::mute("shutdown", Way::ResetToEnd);

    /// A guest that releases a PCI device that is unplugged, and one that keeps its
    /// memory. Both do so at `reach`.
    pub const LETS_GO: Self = Self::answering("running", Way::Nmi(Guest::LetGo));
    pub const KEEPS_MEMORY: Self = Self::answering("running", Way::Nmi(Guest::KeepMemory));

    /// A guest that locks the tray of the CD-ROM drive `ide.1`, and one that ejects its
    /// medium. Both do so at `reach`.
    pub const LOCKS_TRAY: Self = Self::answering("running", Way::Nmi(Guest::LockTray));
    pub const EJECTS_MEDIUM: Self = Self::answering("running", Way::Nmi(Guest::EjectMedium));

    /// A guest that counts its calls of `reach`, in the byte at [`COUNT`].
    pub const COUNTS: Self = Self::answering("running", Way::Nmi(Guest::Count));

    /// All states that a machine can reach here: not `internal-error`, `colo` and
    /// `save-vm`, in which no monitor is served.
    pub const ALL: [Self; 14] = [
        Self::PRELAUNCH,
        Self::RUNNING,
        Self::PAUSED,
        Self::RESET,
        Self::INMIGRATE,
        Self::SUSPENDED,
        Self::FINISH_MIGRATE,
        Self::POSTMIGRATE,
        Self::SHUTDOWN,
        Self::IO_ERROR,
        Self::GUEST_PANICKED,
        Self::WATCHDOG,
        Self::DEBUG,
        Self::RESTORE_VM,
    ];

    /// Those in which a SPICE port is mute.
    pub fn all_mute() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|state| state.mute)
    }

    const fn answering(name: &'static str, way: Way) -> Self {
        Self {
            name,
            mute: false,
            way,
            errno: ENOSPC,
        }
    }

    const fn mute(name: &'static str, way: Way) -> Self {
        Self {
            mute: true,
            ..Self::answering(name, way)
        }
    }

    const fn on(self, errno: u32) -> Self {
        Self { errno, ..self }
    }

    /// Starts a machine that can reach this state. It runs, unless it is started in it.
    pub fn start(self, program: &Program) -> Machine {
        self.start_with(Config::new(), program)
    }

    /// Like [`start`](Self::start), with more options.
    pub fn start_with(self, config: Config, program: &Program) -> Machine {
        let guest = match self.way {
            Way::Nmi(guest) => guest,
            _ => Guest::Idle,
        };
        // Without an APIC, which no firmware sets up here, NMIs reach the processor.
        let config = add(
            self.configure(config),
            &["-cpu", "qemu64,apic=off", "-bios"],
        );
        let config = config.arg(guest.rom());
        let qemu = config.start(program);
        let monitor = qemu.monitor();
        let mut machine = Machine {
            qemu,
            state: self,
            monitor,
            debugger: None,
            reached: 0,
        };
        match self.way {
            Way::Started(_) => machine.until(self.name),
            _ => machine.until_idle(),
        }
        if self.way == Way::Debugger {
            machine.attach_debugger();
        }
        machine
    }

    fn configure(self, config: Config) -> Config {
        match self.way {
            Way::Started("-S") => config,
            Way::Started(_) => add(config, &["-incoming", "defer"]),
            way => {
                let config = config.running();
                match way {
                    Way::Nmi(Guest::PowerOff) => config.arg("-no-shutdown"),
                    Way::Nmi(Guest::Panic) => {
                        add(config, &["-device", "pvpanic", "-action", "panic=pause"])
                    }
                    Way::Nmi(Guest::StartWatchdog) => {
                        add(config, &["-device", "ib700", "-action", "watchdog=pause"])
                    }
                    Way::Nmi(Guest::KeepMemory) => add(config, &["-m", "64,slots=2,maxmem=1G"]),
                    Way::Nmi(Guest::Restart) | Way::ResetToEnd => {
                        add(config, &["-no-reboot", "-no-shutdown"])
                    }
                    Way::Nmi(Guest::WriteSector | Guest::ReadSector) => add(
                        config,
                        &[
                            "-blockdev",
                            &broken_disk(self.errno),
                            "-device",
                            "ide-hd,id=hd0,drive=disk0,bus=ide.0,werror=stop,rerror=stop",
                        ],
                    ),
                    Way::FailedSnapshotLoad => config
                        .arg("-blockdev")
                        .arg("null-co,node-name=disk,size=1048576"),
                    _ => config,
                }
            }
        }
    }
}

/// Where [`RunState::COUNTS`] counts.
pub const COUNT: u64 = 0x7e00;

fn add(config: Config, args: &[&str]) -> Config {
    args.iter().fold(config, |config, arg| config.arg(*arg))
}

impl fmt::Debug for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A disk on which a sector can be read or written only at the second attempt.
fn broken_disk(errno: u32) -> String {
    let error = |iotype: &str, sector: u32| {
        json!({
            "event": "none",
            "iotype": iotype,
            "sector": sector,
            "errno": errno,
            "once": true,
        })
    };
    let errors = (0..64).map(|sector| match errno {
        // Reading needs no space.
        ENOSPC => vec![error("write", sector)],
        _ => vec![error("write", sector), error("read", sector)],
    });
    json!({
        "driver": "blkdebug",
        "node-name": "disk0",
        "image": { "driver": "null-co", "size": 1 << 20, "read-zeroes": true },
        "inject-error": errors.flatten().collect::<Vec<_>>(),
    })
    .to_string()
}

/// A machine that can reach one run state.
pub struct Machine {
    pub qemu: Qemu,
    pub monitor: Monitor,
    state: RunState,
    debugger: Option<UnixStream>,
    reached: u32,
}

impl Machine {
    /// Brings the machine into its state.
    pub fn reach(&mut self) {
        self.reached += 1;
        match self.state.way {
            Way::Nothing | Way::Started(_) => {}
            Way::Stop => self.execute("stop", Value::Null),
            Way::StopThenReset => {
                self.execute("stop", Value::Null);
                self.execute("system_reset", Value::Null);
            }
            Way::ResetToEnd => self.execute("system_reset", Value::Null),
            Way::Migrate => self.execute("migrate", json!({ "uri": "exec:cat >/dev/null" })),
            Way::MigrateUntilSwitchover => {
                let capability = json!({ "capability": "pause-before-switchover", "state": true });
                let capabilities = json!({ "capabilities": [capability] });
                self.execute("migrate-set-capabilities", capabilities);
                self.execute("migrate", json!({ "uri": "exec:cat >/dev/null" }));
            }
            Way::Nmi(_) | Way::Debugger => self.execute("inject-nmi", Value::Null),
            Way::FailedSnapshotLoad => {
                let job = format!("load{}", self.reached);
                let (disk, disks) = ("disk", ["disk"]);
                let arguments =
                    json!({ "job-id": job, "tag": "none", "vmstate": disk, "devices": disks });
                self.execute("snapshot-load", arguments);
            }
        }
        self.until(self.state.name);
        if self.state.way == Way::MigrateUntilSwitchover {
            self.until_switchover();
        }
    }

    /// The run state comes first.
    fn until_switchover(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !matches!(
            self.monitor.execute("query-migrate", None),
            Ok(migration) if migration["status"] == "pre-switchover"
        ) {
            assert!(Instant::now() < deadline, "the migration does not wait");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Resumes a machine that was paused or reset.
    pub fn wake(&mut self) {
        self.execute("cont", Value::Null);
        self.until_idle();
    }

    /// Resumes the machine.
    pub fn resume(&mut self) {
        match self.state.way {
            Way::Nmi(Guest::Restart) | Way::ResetToEnd => {
                self.execute("set-action", json!({ "reboot": "reset" }));
                self.execute("system_reset", Value::Null);
                self.execute("set-action", json!({ "reboot": "shutdown" }));
                self.execute("cont", Value::Null);
            }
            Way::Nmi(Guest::PowerOff) => {
                self.execute("system_reset", Value::Null);
                self.execute("cont", Value::Null);
            }
            Way::Debugger => {
                // The breakpoint would stop it again.
                self.step();
                self.execute("cont", Value::Null);
            }
            Way::Nmi(Guest::Sleep) => self.execute("system_wakeup", Value::Null),
            Way::MigrateUntilSwitchover => {
                self.execute("migrate-continue", json!({ "state": "pre-switchover" }));
                self.until("postmigrate");
                self.execute("cont", Value::Null);
            }
            _ => self.execute("cont", Value::Null),
        }
        self.until_idle();
    }

    /// Runs a command on the monitor beside the one under test. It must succeed.
    pub fn execute(&mut self, command: &str, arguments: Value) {
        let arguments = Some(arguments).filter(|arguments| !arguments.is_null());
        if let Err(error) = self.monitor.execute(command, arguments) {
            panic!("{command} on the way to {}: {error}", self.state.name);
        }
    }

    /// The run state that QEMU reports; the class `Closed` if it is dead.
    pub fn status(&mut self) -> Result<String, Value> {
        let status = self.monitor.execute("query-status", None)?;
        Ok(status["status"].as_str().expect("a name").to_owned())
    }

    /// Waits until QEMU reports this state.
    pub fn until(&mut self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if status.as_deref() == Ok(name) {
                return;
            }
            let late = Instant::now() > deadline || status.is_err();
            assert!(!late, "waited for {name}, but QEMU says {status:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the guest sleeps, so that it accepts an NMI.
    fn until_idle(&mut self) {
        self.until("running");
        let deadline = Instant::now() + PATIENCE;
        let registers = json!({ "command-line": "info registers" });
        let command = "human-monitor-command";
        while !matches!(
            self.monitor.execute(command, Some(registers.clone())),
            Ok(Value::String(text)) if text.contains("HLT=1")
        ) {
            let late = Instant::now() > deadline;
            assert!(!late, "the guest does not sleep after {}", self.state.name);
        }
    }

    /// Sets a breakpoint where the guest begins to handle an NMI.
    fn attach_debugger(&mut self) {
        let path = self.qemu.dir().join("gdb.sock");
        let device = format!("gdbserver unix:{},server=on,wait=off", path.display());
        let line = json!({ "command-line": device });
        self.execute("human-monitor-command", line);
        let debugger = UnixStream::connect(path).expect("QEMU listens");
        self.debugger = Some(debugger);
        // The machine stops when a debugger connects.
        self.until("paused");
        self.debug("Z0,fff18,1");
        self.debug("c");
        self.until_idle();
    }

    /// Executes one instruction. The run state is the same before and after it.
    fn step(&mut self) {
        let debugger = self.debugger.as_mut().expect("a debugger is there");
        let mut told = [0; 1024];
        debugger.set_nonblocking(true).expect("a socket");
        while debugger.read(&mut told).is_ok_and(|count| count > 0) {}
        told.fill(0);
        debugger.set_nonblocking(false).expect("a socket");
        self.debug("s");
        let debugger = self.debugger.as_mut().expect("a debugger is there");
        debugger.set_read_timeout(Some(PATIENCE)).expect("a socket");
        // A reply that reports that the guest has stopped begins like this.
        while !told.contains(&b'T') {
            let count = debugger.read(&mut told).expect("QEMU has stopped again");
            told[count..].fill(0);
        }
    }

    fn debug(&mut self, packet: &str) {
        let debugger = self.debugger.as_mut().expect("a debugger is there");
        let sum = packet.bytes().fold(0, u8::wrapping_add);
        write!(debugger, "+${packet}#{sum:02x}").expect("QEMU reads");
    }
}

impl Guest {
    /// The file of the firmware.
    fn rom(self) -> PathBuf {
        let mut rom = vec![HLT; ROM_SIZE];
        let code = [PROLOGUE, &self.handler()].concat();
        rom[CODE..][..code.len()].copy_from_slice(&code);
        rom[RESET..][..JUMP_TO_CODE.len()].copy_from_slice(JUMP_TO_CODE);

        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = dir.join(format!("guest-{self:?}.rom"));
        // Other tests may start a QEMU from it meanwhile.
        let mut new = NamedTempFile::new_in(dir).expect("a file in target/tmp");
        new.write_all(&rom).expect("a file in target/tmp");
        new.persist(&file).expect("a file in target/tmp");
        file
    }

    /// The guest's code for an NMI.
    fn handler(self) -> Vec<u8> {
        match self {
            // nop; iret
            Guest::Idle => b"\x90\xcf".to_vec(),
            // mov dx, 0x505; mov al, 1; out dx, al; iret
            Guest::Panic => b"\xba\x05\x05\xb0\x01\xee\xcf".to_vec(),
            // mov ax, 0x2000 (S5); out dx, ax; iret
            Guest::PowerOff => [POWER_MANAGEMENT, b"\xb8\x00\x20\xef\xcf"].concat(),
            // mov ax, 0x2400 (S3); out dx, ax; iret
            Guest::Sleep => [POWER_MANAGEMENT, b"\xb8\x00\x24\xef\xcf"].concat(),
            // mov dx, 0x443; mov al, 15 (0 s); out dx, al; iret
            Guest::StartWatchdog => b"\xba\x43\x04\xb0\x0f\xee\xcf".to_vec(),
            // mov al, 0xfe (reset); out 0x64, al; iret
            Guest::Restart => b"\xb0\xfe\xe6\x64\xcf".to_vec(),
            Guest::WriteSector => WRITE_SECTOR.to_vec(),
            Guest::ReadSector => READ_SECTOR.to_vec(),
            Guest::LetGo => LET_GO.to_vec(),
            Guest::KeepMemory => KEEP_MEMORY.to_vec(),
            // PREVENT ALLOW MEDIUM REMOVAL: prevent; START STOP UNIT: eject
            Guest::LockTray => packet(0x1e, 1),
            Guest::EjectMedium => packet(0x1b, 2),
            // inc byte [COUNT]; iret
            Guest::Count => b"\xfe\x06\x00\x7e\xcf".to_vec(),
        }
    }
}

/// QEMU accepts firmware whose size is a multiple of this.
const ROM_SIZE: usize = 0x1_0000;
/// Where the processor starts.
const RESET: usize = 0xfff0;
/// Where the guest's code is.
const CODE: usize = 0xff00;
const HLT: u8 = 0xf4;
/// jmp 0xff00
const JUMP_TO_CODE: &[u8] = b"\xe9\x0d\xff";

/// Points vector 2, the NMI's, to what follows, and sleeps.
const PROLOGUE: &[u8] = b"\
    \x31\xc0\x8e\xd8\x8e\xd0\
    \xbc\x00\x70\
    \xc7\x06\x08\x00\x18\xff\
    \xc7\x06\x0a\x00\x00\xf0\
    \xf4\xeb\xfd";
// xor ax, ax; mov ds, ax; mov ss, ax
// mov sp, 0x7000
// mov word [8], 0xff18
// mov word [10], 0xf000
// hlt; jmp to the hlt

/// Puts the PIIX4's power management at port 0x600, and `dx` at its control register.
const POWER_MANAGEMENT: &[u8] = b"\
    \xba\xf8\x0c\x66\xb8\x40\x0b\x00\x80\x66\xef\
    \xba\xfc\x0c\x66\xb8\x01\x06\x00\x00\x66\xef\
    \xba\xf8\x0c\x66\xb8\x80\x0b\x00\x80\x66\xef\
    \xba\xfc\x0c\xb0\x01\xee\
    \xba\x04\x06";
// mov dx, 0xcf8; mov eax, 0x80000b40; out dx, eax
// mov dx, 0xcfc; mov eax, 0x601; out dx, eax
// mov dx, 0xcf8; mov eax, 0x80000b80; out dx, eax
// mov dx, 0xcfc; mov al, 1; out dx, al
// mov dx, 0x604

/// Writes the next sector of the first IDE disk by programmed I/O.
const WRITE_SECTOR: &[u8] = b"\
    \xba\xf6\x01\xb0\xe0\xee\
    \xba\xf2\x01\xb0\x01\xee\
    \x42\x88\xd8\xee\x42\x31\xc0\xee\x42\xee\
    \xba\xf7\x01\xb0\x30\xee\
    \xec\xa8\x08\x74\xfb\
    \xba\xf0\x01\xb9\x00\x01\xef\xe2\xfd\
    \xba\xf7\x01\xec\xa8\x80\x75\xfb\
    \x43\xcf";
// mov dx, 0x1f6; mov al, 0xe0 (disk 0, LBA); out dx, al
// mov dx, 0x1f2; mov al, 1 (sector); out dx, al
// inc dx; mov al, bl (LBA); out dx, al
// inc dx; xor ax, ax; out dx, al; inc dx; out dx, al
// mov dx, 0x1f7; mov al, 0x30 (write); out dx, al
// until DRQ is set: in al, dx; test al, 8; jz
// mov dx, 0x1f0; mov cx, 256; 256 times: out dx, ax; loop
// mov dx, 0x1f7; while BSY is set: in al, dx; test al, 0x80; jnz
// inc bx; iret

/// Reads the next sector likewise.
const READ_SECTOR: &[u8] = b"\
    \x43\xba\xf6\x01\xb0\xe0\xee\
    \xba\xf2\x01\xb0\x01\xee\
    \x42\x88\xd8\xee\x42\x31\xc0\xee\x42\xee\
    \xba\xf7\x01\xb0\x20\xee\
    \xec\xa8\x08\x74\xfb\
    \xba\xf0\x01\xb9\x00\x01\xed\xe2\xfd\
    \xcf";
// inc bx, as QEMU has read sector 0 itself; then as above, with 0x20 (read) for 0x30,
// and 256 times: in ax, dx

/// Ejects the requested devices of PCI bus 0.
const LET_GO: &[u8] = b"\
    \xba\x10\xae\x66\x31\xc0\x66\xef\
    \xba\x04\xae\x66\xed\
    \xba\x08\xae\x66\xef\
    \xcf";
// mov dx, 0xae10; xor eax, eax; out dx, eax (the bus)
// mov dx, 0xae04; in eax, dx (what is to be ejected)
// mov dx, 0xae08; out dx, eax
// iret

/// Sends an ATAPI command to the first drive of the second IDE bus.
fn packet(command: u8, option: u8) -> Vec<u8> {
    [
        // mov dx, 0x176; mov al, 0xa0 (drive 0); out dx, al
        b"\xba\x76\x01\xb0\xa0\xee" as &[u8],
        // mov dx, 0x171; xor ax, ax; out dx, al
        b"\xba\x71\x01\x31\xc0\xee",
        // mov dx, 0x174; mov al, 8; out dx, al; inc dx; xor ax, ax; out dx, al
        b"\xba\x74\x01\xb0\x08\xee\x42\x31\xc0\xee",
        // mov dx, 0x177; mov al, 0xa0 (packet); out dx, al
        b"\xba\x77\x01\xb0\xa0\xee",
        // until DRQ is set: in al, dx; test al, 8; jz
        b"\xec\xa8\x08\x74\xfb",
        // mov dx, 0x170; mov ax, command; out dx, ax; xor ax, ax; out dx, ax
        &[0xba, 0x70, 0x01, 0xb8, command, 0, 0xef, 0x31, 0xc0, 0xef],
        // mov al, option; out dx, ax; xor ax, ax; 3 times: out dx, ax; iret
        &[0xb0, option, 0xef, 0x31, 0xc0, 0xef, 0xef, 0xef, 0xcf],
    ]
    .concat()
}

/// Reports that memory module 0 was not ejected.
const KEEP_MEMORY: &[u8] = b"\
    \xba\x00\x0a\x66\x31\xc0\x66\xef\
    \xba\x04\x0a\x66\xb8\x03\x00\x00\x00\x66\xef\
    \xba\x08\x0a\x66\xb8\x01\x00\x00\x00\x66\xef\
    \xba\x14\x0a\xb0\x04\xee\
    \xcf";
// mov dx, 0xa00; xor eax, eax; out dx, eax (the slot)
// mov dx, 0xa04; mov eax, 3 (an ejection request); out dx, eax
// mov dx, 0xa08; mov eax, 1 (failed); out dx, eax
// mov dx, 0xa14; mov al, 4 (the request is done with); out dx, al
// iret

const PATIENCE: Duration = Duration::from_secs(10);
