// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of SPICE ports that lead to a QEMU monitor.

/// Whether a SPICE port with this name speaks QMP: `org.qemu.monitor`,
/// `org.qemu.monitor.qmp` and `org.qemu.monitor.qmp.N`.
#[must_use]
pub fn is_qmp_port_name(name: &str) -> bool {
    match name.strip_prefix("org.qemu.monitor") {
        Some("" | ".qmp") => true,
        Some(rest) => rest.strip_prefix(".qmp.").is_some_and(|n| !n.is_empty()),
        None => false,
    }
}

/// Whether a SPICE port with this name is QEMU's human monitor.
#[must_use]
pub fn is_human_monitor_name(name: &str) -> bool {
    name == "org.qemu.monitor.hmp" || name.starts_with("org.qemu.monitor.hmp.")
}

#[cfg(test)]
mod tests {
    use super::{is_human_monitor_name, is_qmp_port_name};

    #[test]
    fn names_of_monitors() {
        for name in [
            "org.qemu.monitor",
            "org.qemu.monitor.qmp",
            "org.qemu.monitor.qmp.0",
            "org.qemu.monitor.qmp.vm-1",
        ] {
            assert!(is_qmp_port_name(name), "{name}");
            assert!(!is_human_monitor_name(name), "{name}");
        }
        for name in ["org.qemu.monitor.hmp", "org.qemu.monitor.hmp.0"] {
            assert!(is_human_monitor_name(name), "{name}");
            assert!(!is_qmp_port_name(name), "{name}");
        }
        for name in [
            "",
            "org.qemu.monitor.",
            "org.qemu.monitor.0",
            "org.qemu.monitor.qmp.",
            "org.qemu.monitor.qmpx",
            "org.qemu.monitor.hmpx",
            "org.qemu.monitors",
            "org.qemu.console.serial.0",
            "org.qemu.guest_agent.0",
            "org.spice-space.webdav.0",
            "Org.qemu.monitor.qmp.0",
            " org.qemu.monitor.qmp.0",
        ] {
            assert!(!is_qmp_port_name(name), "{name}");
            assert!(!is_human_monitor_name(name), "{name}");
        }
    }
}
