// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exercises a machine, over any transport.

use spice_qmp::{QmpPort, VmAction};

use super::main_loop::MainLoop;

/// Resumes a machine that is not running, and pauses it.
pub fn resume_and_pause(main: &MainLoop, port: &QmpPort) {
    let mut events = port.events_named(["RESUME", "STOP"]);
    main.block_on(port.vm_action(VmAction::Continue)).unwrap();
    main.block_on(port.vm_action(VmAction::Pause)).unwrap();
    assert_eq!(main.block_on(events.next()).unwrap().name(), "RESUME");
    assert_eq!(main.block_on(events.next()).unwrap().name(), "STOP");
    main.until("the status", || {
        port.status()
            .is_some_and(|status| status.status() == "paused")
    });
}
