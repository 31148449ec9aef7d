// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library from C, on real QEMU over SPICE and D-Bus.

#[path = "../../tests/common/dbus.rs"]
#[allow(dead_code, unreachable_pub)]
mod dbus;
#[path = "../../tests/common/main_loop.rs"]
#[allow(dead_code, unreachable_pub)]
mod main_loop;
#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dbus::{Bus, with_monitor};
use qemu::{Config, Mode, Program, Qemu};
use support::{Compiler, run, valgrind, with_library};

fn scenario(name: &str, config: Config, program: &Program, command: Command) {
    let qemu = config.start(program);
    let uri = qemu.spice_uri();
    run_scenario(name, &uri, qemu, program, command);
}

/// `place` is the address of a SPICE server, or of a bus.
fn run_scenario(name: &str, place: &str, mut qemu: Qemu, program: &Program, mut command: Command) {
    command
        .args([name, place])
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
        // QEMU may crash if a client disconnects with a command unanswered.
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
fn on_a_bus() {
    let test = Compiler::c().compile("qemu", "qemu-bus");
    for program in Program::all() {
        for command in [with_library(&test), valgrind(&test)] {
            let bus = Bus::start();
            let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
            let qemu = bus.start_qemu(config, &program);
            run_scenario("bus", &bus.address(), qemu, &program, command);
        }
    }
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
