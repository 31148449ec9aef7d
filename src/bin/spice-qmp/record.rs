// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes a transcript of the connection: `--record FILE`.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use spice_qmp::record_traffic;

use crate::clock::utc;
use crate::failure::{Failure, note};
use crate::json_text::compact;

/// Appends everything that is sent and received from now on to the file.
pub(crate) fn start(path: &Path, json: bool) -> Result<(), Failure> {
    let file = open(path).map_err(|fault| {
        Failure::usage(format!("--record {}: {fault}", path.display())).hint(
            "it must be a new file, or a regular one of your own with no other name (hard link)",
        )
    })?;
    let failed = AtomicBool::new(false);
    record_traffic(move |time, direction, message| {
        let time = utc(time);
        let line = format!(r#"{{"time":"{time}","direction":"{direction}","message":{message}}}"#);
        let line = compact(&line) + "\n";
        // In one write, so that lines of several tools stay whole.
        if let Err(error) = (&file).write_all(line.as_bytes())
            && !failed.swap(true, Ordering::Relaxed)
        {
            note(json, &format!("the transcript is not complete: {error}"));
        }
    });
    Ok(())
}

/// Opens a file that no other user can read or has put there: it does not
/// follow links, and does not write to pipes.
fn open(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::OFlags;

        // It fails at once on a link, and on a pipe without a reader.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path).map_err(|error| fault(path, &error))?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let own = gio::Credentials::new().unix_user();
    if own.ok() != Some(metadata.uid()) {
        return Err("it belongs to another user".into());
    }
    if metadata.nlink() != 1 {
        return Err("it has other names, too".into());
    }
    if metadata.mode() & 0o077 != 0 {
        let private = file.set_permissions(Permissions::from_mode(0o600));
        private.map_err(|error| error.to_string())?;
    }
    Ok(file)
}

fn fault(path: &Path, error: &io::Error) -> String {
    let link = path.symlink_metadata().is_ok_and(|it| it.is_symlink());
    if link {
        "it is a symbolic link".into()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_private_files_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o777;

        open(&path("new")).unwrap().write_all(b"a").unwrap();
        open(&path("new")).unwrap().write_all(b"b").unwrap();
        assert_eq!(fs::read(path("new")).unwrap(), b"ab");
        assert_eq!(mode("new"), 0o600);

        fs::write(path("open"), "x").unwrap();
        fs::set_permissions(path("open"), Permissions::from_mode(0o664)).unwrap();
        open(&path("open")).unwrap();
        assert_eq!(mode("open"), 0o600);

        symlink(path("new"), path("link")).unwrap();
        symlink(path("none"), path("dangling")).unwrap();
        fs::hard_link(path("new"), path("other name")).unwrap();
        for (name, fault) in [
            ("link", "it is a symbolic link"),
            ("dangling", "it is a symbolic link"),
            ("new", "it has other names, too"),
            ("no/folder", "No such file"),
            ("", "Is a directory"),
            ("/dev/null", "it is not a regular file"),
            ("/dev/stderr", "it is a symbolic link"),
        ] {
            let error = open(&path(name)).unwrap_err();
            assert!(error.contains(fault), "{name}: {error}");
        }
        assert!(!path("none").exists());
    }
}
