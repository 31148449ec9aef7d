//! The C library from C, on real QEMU over SPICE.

#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu::{Config, Mode, Program};
use support::{Compiler, run, valgrind, with_library};

fn scenario(name: &str, config: Config, program: &Program, mut command: Command) {
    let mut qemu = config.start(program);
    command
        .args([name, &qemu.spice_uri()])
        .arg(qemu.qmp_socket())
        .arg(program.version());
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut command, "valgrind")));
    if let Err(panic) = result {
        let exit = qemu.wait_exit(Duration::ZERO);
        eprintln!("QEMU {} ({exit:?}): {}", program.version(), qemu.stderr());
        resume_unwind(panic);
    }
    if name == "all" {
        let exit = qemu.wait_exit(Duration::from_secs(10));
        assert!(
            exit.is_some_and(|exit| exit.success()),
            "{exit:?}: {}",
            qemu.stderr()
        );
    }
}

fn everything(name: &str, command: impl Fn(&Path) -> Command) {
    let test = Compiler::c().compile("qemu", name);
    for program in Program::all() {
        // QEMU may crash when a client leaves with a command unanswered.
        for name in ["all", "gone", "given-back"] {
            scenario(name, Config::new(), &program, command(&test));
        }
    }
}

#[test]
fn qemu() {
    everything("qemu", |test| with_library(test));
}

#[test]
fn qemu_under_valgrind() {
    everything("qemu-valgrind", valgrind);
}

#[test]
fn servers_without_a_port_for_us() {
    let test = Compiler::c().compile("qemu", "qemu-refusals");
    let system = Program::system();
    let human = Config::new().port("org.qemu.monitor.hmp.0", Mode::Readline);
    for (name, config) in [
        ("no-port", Config::new().no_ports()),
        ("human", human),
        ("password", Config::new().spice_tcp_password("secret")),
    ] {
        scenario(name, config, &system, with_library(&test));
    }
}
