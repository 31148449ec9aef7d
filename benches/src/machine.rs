// SPDX-License-Identifier: MIT OR Apache-2.0
//! Describes the machine of a run.

use std::fs;
use std::process::Command;

/// The machine and the versions of everything that was measured, without its name.
pub fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches(['\t', ':', ' '])
        });
    // Not the cores of this process, which is pinned to one.
    let cores = cpuinfo.matches("processor\t").count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or_default()
        / (1 << 20);
    let kernel = said("uname", &["-r"]);
    let package = |name: &str| said("pkg-config", &["--modversion", name]);
    let qemu = said("qemu-system-x86_64", &["--version"]);
    let qemu = qemu.lines().next().unwrap_or_default().to_owned();
    format!(
        "{cpu}, {cores} cores, {memory} GiB of memory, Linux {kernel}; {}; GLib {}, JSON-GLib {}, \
         spice-gtk {}; {qemu}.",
        said("rustc", &["--version"]),
        package("glib-2.0"),
        package("json-glib-1.0"),
        package("spice-client-glib-2.0"),
    )
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(
        |_| format!("no {program}"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
