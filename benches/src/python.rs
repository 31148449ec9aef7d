//! The Python environment with the package `qemu.qmp`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An interpreter that has the package. It is fetched once, into the folder of
/// this program.
pub fn interpreter() -> Result<PathBuf, String> {
    let program = std::env::current_exe().expect("this program");
    let folder = program.with_file_name("qemu-qmp-python");
    let python = folder.join("bin/python3");
    let runs = || {
        let mut test = Command::new(&python);
        test.args(["-c", "import qemu.qmp"]).stderr(Stdio::null());
        test.status().is_ok_and(|status| status.success())
    };
    if runs() {
        return Ok(python);
    }
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let made = quiet(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        && quiet(Command::new(folder.join("bin/pip")).args(["install", "qemu.qmp==0.0.6"]));
    if made && runs() {
        Ok(python)
    } else {
        Err(
            "qemu.qmp cannot be had: pip install qemu.qmp in a Python 3.8 or newer with venv"
                .into(),
        )
    }
}
