// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replays the corpora and earlier findings.

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let mut count = 0;
    for folder in ["corpus", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(folder)
            .join(target);
        // Git keeps no empty folders: there may have been no finding.
        let files = fs::read_dir(folder).into_iter().flatten();
        for file in files {
            let path = file.expect("a file").path();
            // Shown if the input fails.
            println!("{}", path.display());
            run(&fs::read(&path).expect("it can be read"));
            count += 1;
        }
    }
    assert!(count > 0, "the corpus of {target} is gone");
    // Bypasses the test's capture, so that `./dev test` shows it.
    std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("fuzz: {count} inputs of {target} replayed\n").as_bytes(),
    )
    .expect("standard error is open");
}

#[test]
fn session() {
    replay("session", spice_qmp_fuzz::session);
}

#[test]
fn server() {
    replay("server", spice_qmp_fuzz::server);
}

#[test]
fn decode() {
    replay("decode", spice_qmp_fuzz::decode);
}

#[test]
fn capi() {
    replay("capi", spice_qmp_fuzz::capi);
}
