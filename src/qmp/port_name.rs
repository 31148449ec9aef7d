//! The names of SPICE ports that lead to a QEMU monitor.

/// Whether a SPICE port of this name speaks QMP: `org.qemu.monitor`,
/// `org.qemu.monitor.qmp` and `org.qemu.monitor.qmp.N`.
#[must_use]
pub fn is_qmp_port_name(name: &str) -> bool {
    match name.strip_prefix("org.qemu.monitor") {
        Some("" | ".qmp") => true,
        Some(rest) => rest.strip_prefix(".qmp.").is_some_and(|n| !n.is_empty()),
        None => false,
    }
}

/// Whether a SPICE port of this name is QEMU's human monitor.
#[must_use]
pub fn is_human_monitor_name(name: &str) -> bool {
    name == "org.qemu.monitor.hmp" || name.starts_with("org.qemu.monitor.hmp.")
}
