// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library from C: its symbols, its header, its functions.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Compiler, here, library, run, scratch, typelib, valgrind, with_library};

#[test]
fn exactly_the_listed_symbols_are_exported_unversioned() {
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only"]).arg(library());
    let symbols = run(&mut nm, "binutils");
    let mut exported: Vec<_> = symbols
        .lines()
        .filter_map(|l| l.split(' ').nth(2))
        .collect();
    exported.sort_unstable();
    let listed = fs::read_to_string(here().join("symbols.txt")).expect("symbols.txt");
    let is_symbol = |line: &&str| !line.starts_with('#');
    let mut listed: Vec<_> = listed.lines().filter(is_symbol).collect();
    listed.sort_unstable();
    assert_eq!(
        exported, listed,
        "symbols.txt is the list of what C may rely on"
    );
    assert!(
        exported
            .iter()
            .all(|name| name.starts_with("spice_qmp_") && !name.contains('@'))
    );
}

#[test]
fn all_symbols_of_spice_gtk_are_among_them() {
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--variable=libdir", "spice-client-glib-2.0"]);
    let dir = run(&mut pkg_config, "pkg-config libspice-client-glib-2.0-dev");
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only"])
        .arg(format!("{}/libspice-client-glib-2.0.so", dir.trim()));
    let theirs = run(&mut nm, "binutils");
    let theirs: Vec<_> = theirs
        .lines()
        .filter_map(|line| line.split([' ', '@']).nth(2))
        .filter(|name| name.starts_with("spice_qmp_"))
        .collect();
    let ours = fs::read_to_string(here().join("symbols.txt")).expect("symbols.txt");
    assert_eq!(theirs.len(), 9, "spice-gtk has changed: {theirs:?}");
    for name in theirs {
        assert!(ours.lines().any(|our| our == name), "{name} is missing");
    }
}

#[test]
fn the_library_has_its_name() {
    let mut readelf = Command::new("readelf");
    readelf.arg("-d").arg(library());
    let dynamic = run(&mut readelf, "binutils");
    assert!(dynamic.contains("[libspice-qmp-1.so.0]"), "{dynamic}");
}

#[test]
fn versions_agree() {
    let root = fs::read_to_string(here().join("../Cargo.toml")).expect("the root's Cargo.toml");
    let version = format!("\nversion = \"{}\"\n", env!("CARGO_PKG_VERSION"));
    assert!(
        root.contains(&version),
        "sys/Cargo.toml has another version than ../Cargo.toml"
    );
}

/// The header compiles in every order and language, and the interface is what it was.
#[test]
fn abi() {
    let version = |compiler: Compiler| {
        compiler
            .arg(concat!("-DCARGO_MAJOR=", env!("CARGO_PKG_VERSION_MAJOR")))
            .arg(concat!("-DCARGO_MINOR=", env!("CARGO_PKG_VERSION_MINOR")))
            .arg(concat!("-DCARGO_MICRO=", env!("CARGO_PKG_VERSION_PATCH")))
    };
    let compilers = [("c99", Compiler::c99()), ("c++17", Compiler::cpp17())];
    for (name, compiler) in compilers.map(|(name, c)| (name, version(c))) {
        for order in ["ALONE", "SPICE_GTK_FIRST", "SPICE_GTK_LAST"] {
            let program = compiler
                .clone()
                .arg(&format!("-D{order}"))
                .compile("abi", &format!("abi-{name}-{order}"));
            run(&mut with_library(program), "");
        }
    }
}

#[test]
fn port() {
    run(&mut with_library(Compiler::c().compile("port", "port")), "");
}

#[test]
fn port_under_valgrind() {
    let program = Compiler::c().compile("port", "port-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

#[test]
fn machine() {
    let program = Compiler::c().compile("machine", "machine");
    run(&mut with_library(program), "");
}

#[test]
fn machine_under_valgrind() {
    let program = Compiler::c().compile("machine", "machine-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

#[test]
fn drives() {
    let program = Compiler::c().compile("drives", "drives");
    run(&mut with_library(program), "");
}

#[test]
fn drives_under_valgrind() {
    let program = Compiler::c().compile("drives", "drives-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

/// A NUL in whatever a server says.
#[test]
fn nul() {
    run(&mut with_library(Compiler::c().compile("nul", "nul")), "");
}

#[test]
fn nul_under_valgrind() {
    let program = Compiler::c().compile("nul", "nul-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

#[test]
fn snapshots() {
    run(
        &mut with_library(Compiler::c().compile("snapshots", "snapshots")),
        "",
    );
}

#[test]
fn snapshots_under_valgrind() {
    let program = Compiler::c().compile("snapshots", "snapshots-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

#[test]
fn jobs() {
    run(&mut with_library(Compiler::c().compile("jobs", "jobs")), "");
}

#[test]
fn jobs_under_valgrind() {
    let program = Compiler::c().compile("jobs", "jobs-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

/// The other end of a port: what answers in place of QEMU.
#[test]
fn server() {
    for name in ["server", "server_hostile"] {
        run(&mut with_library(Compiler::c().compile(name, name)), "");
    }
}

#[test]
fn server_under_valgrind() {
    for name in ["server", "server_hostile"] {
        let program = Compiler::c().compile(name, &format!("{name}-valgrind"));
        run(&mut valgrind(&program), "valgrind");
    }
}

/// All options of a call, and the handling of file descriptors.
#[test]
fn fds() {
    run(&mut with_library(Compiler::c().compile("fds", "fds")), "");
}

#[test]
fn fds_under_valgrind() {
    let program = Compiler::c().compile("fds", "fds-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

/// Each listed function on a thread that must not call it.
#[test]
fn threads() {
    let program = Compiler::c().compile("threads", "threads");
    run(with_library(program).arg(here().join("symbols.txt")), "");
}

#[test]
fn threads_under_valgrind() {
    let program = Compiler::c().compile("threads", "threads-valgrind");
    let mut valgrind = valgrind(&program);
    run(valgrind.arg(here().join("symbols.txt")), "valgrind");
}

/// Ports made, used and dropped under every arrangement of main contexts and threads.
#[test]
fn contexts() {
    for name in ["contexts", "contexts_threads"] {
        run(&mut with_library(Compiler::c().compile(name, name)), "");
    }
}

#[test]
fn contexts_under_valgrind() {
    for name in ["contexts", "contexts_threads"] {
        let program = Compiler::c().compile(name, &format!("{name}-valgrind"));
        run(&mut valgrind(&program), "valgrind");
    }
}

/// A storm of events against handlers that run the main loop.
#[test]
fn nested() {
    let program = Compiler::c().compile("nested", "nested");
    run(&mut with_library(program), "");
}

#[test]
fn nested_under_valgrind() {
    let program = Compiler::c().compile("nested", "nested-valgrind");
    run(&mut valgrind(&program), "valgrind");
}

/// The library itself is built by stable Rust, which has no address sanitizer:
/// this checks how the C program uses the library's results, and the
/// heap, which the library shares.
#[test]
fn port_with_address_sanitizer() {
    let program = Compiler::c()
        .arg("-fsanitize=address")
        .compile("port", "port-asan");
    // Leaks are valgrind's task.
    run(
        with_library(program).env("ASAN_OPTIONS", "detect_leaks=0"),
        "",
    );
}

/// The header can be introspected, without a warning.
#[test]
fn introspection() {
    let dir = scratch();
    let gir = typelib(&dir);
    // What would be lost silently: members, documentation, annotations.
    for part in [
        r#"c:identifier="SPICE_QMP_ERROR_NOT_SUPPORTED""#,
        r#"glib:error-domain="spice-qmp-error-quark""#,
        r#"glib:type-name="SpiceQmp1Event""#,
        r#"glib:type-name="SpiceQmp1Machine""#,
        r#"glib:type-name="SpiceQmp1Server""#,
        r#"<implements name="Gio.ActionGroup"/>"#,
        r#"c:identifier="SPICE_QMP_CONDITION_CODE_CONNECTION_LOST""#,
        "A QMP connection to QEMU",
        "bind the user interface to it",
        r#"<field name="singlestep" writable="1">"#,
        r#"getter="dup_last_error""#,
        r#"glib:get-property="last-error""#,
        r#"setter="set_close_timeout""#,
        r#"glib:set-property="close-timeout""#,
    ] {
        assert!(gir.contains(part), "the GIR lacks {part}");
    }
    assert_vapi(&dir);
}

/// In Vala, too, a property is nullable if its function is.
fn assert_vapi(dir: &Path) {
    let mut sed = Command::new("sed");
    sed.args(["-E", "-f"])
        .arg(here().join("gir/finish.sed"))
        .arg(dir.join("SpiceQmp-1.0.gir"));
    let gir = run(&mut sed, "sed");
    // vapigen finds the metadata by this name.
    let dir = dir.join("vapi");
    fs::create_dir_all(&dir).expect("a folder in target/tmp");
    fs::write(dir.join("SpiceQmp-1.0.gir"), gir).expect("a file in target/tmp");
    let mut vapigen = Command::new("vapigen");
    vapigen
        .current_dir(&dir)
        .args(["--quiet", "--disable-warnings", "--library=spice-qmp-1.0"])
        .args(["--pkg=gio-2.0", "--pkg=spice-client-glib-2.0"])
        .arg(format!("--metadatadir={}", here().join("gir").display()))
        .arg("SpiceQmp-1.0.gir");
    run(&mut vapigen, "valac");
    let vapi = fs::read_to_string(dir.join("spice-qmp-1.0.vapi")).expect("vapigen wrote it");
    let mut nullable = 0;
    for (property, function) in [
        (
            "Spice.PortChannel? channel {",
            "Spice.PortChannel? ref_channel ()",
        ),
        ("GLib.Error? last_error {", "GLib.Error? dup_last_error ()"),
        (
            "SpiceQmp.Condition? condition {",
            "SpiceQmp.Condition? dup_condition ()",
        ),
        ("string? package {", "string? dup_package ()"),
        (
            "SpiceQmp.Status? status {",
            "SpiceQmp.Status? dup_status ()",
        ),
        ("string? version {", "string? dup_version ()"),
        ("string? address {", "string? dup_address ()"),
        ("string? ca_file {", "string? dup_ca_file ()"),
        ("string? host_subject {", "string? dup_host_subject ()"),
        ("string? io_status {", "string? dup_io_status ()"),
        ("string? lost_medium {", "string? dup_lost_medium ()"),
        ("string? medium {", "string? dup_medium ()"),
        ("string? close_reason {", "string? dup_close_reason ()"),
        // For a job, and for a list.
        ("string? error {", "string? dup_error ()"),
        ("GLib.Error? error {", "GLib.Error? dup_error ()"),
    ] {
        assert!(vapi.contains(property), "the vapi lacks {property}");
        assert!(vapi.contains(function), "the vapi lacks {function}");
        nullable += 1;
    }
    assert_eq!(
        vapi.matches("? dup_").count() + vapi.matches("? ref_").count(),
        nullable
    );
}
