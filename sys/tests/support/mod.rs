// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the C library and programs against it, and runs them.
#![allow(dead_code, unreachable_pub)]

pub mod desktop;

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

/// This crate's folder.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folders of the headers: the one generated from the sources, and the one that
/// says how the library was built.
pub fn include_dirs() -> [PathBuf; 2] {
    [
        here().join("include"),
        Path::new(env!("OUT_DIR")).join("include"),
    ]
}

/// The file of the shared library.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(build)
}

/// A folder to link with: the library under the names that it is installed by.
pub fn library_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch().join("lib");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a folder in target/tmp");
        symlink(library(), dir.join("libspice-qmp-1.so.0")).expect("a link in a new folder");
        symlink("libspice-qmp-1.so.0", dir.join("libspice-qmp-1.so")).expect("a second link");
        dir
    })
}

/// A folder for the files of this test program. Each test program has its own.
pub fn scratch() -> PathBuf {
    let program = env::current_exe().expect("the test has a name");
    let name = program.file_stem().expect("the test has a name");
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Builds the library with cargo: tests do not build a library that is for C only.
fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(here())
        .args(["build", "-q", "-p", "spice-qmp-c", "--lib"])
        .args(["--message-format", "json-render-diagnostics"]);
    // The folder that this test was built in: TARGET/tmp.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    cargo.arg("--target-dir").arg(target.expect("a parent"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(
        output.status.success(),
        "the C library did not build: see above"
    );
    let messages = String::from_utf8(output.stdout).expect("cargo writes text");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "spice_qmp_1")
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|name| name.extension() == Some(OsStr::new("so")))
        .expect("cargo names the shared library")
}

/// A way to compile a C program.
#[derive(Clone)]
pub struct Compiler {
    program: &'static str,
    args: Vec<String>,
}

impl Compiler {
    /// C99 with all warnings as errors, except those in other libraries' headers.
    pub fn c99() -> Self {
        Self::new("cc", "-std=c99").arg("-Wpedantic")
    }

    /// C11 with the extensions that GLib's own tests rely on.
    pub fn c() -> Self {
        Self::new("cc", "-std=gnu11")
    }

    /// C++17 with all warnings as errors.
    pub fn cpp17() -> Self {
        Self::new("c++", "-std=c++17")
            .arg("-Wpedantic")
            .arg("-xc++")
    }

    fn new(program: &'static str, standard: &str) -> Self {
        let mut compiler = Self {
            program,
            args: vec![standard.into()],
        };
        for arg in ["-g", "-O1", "-Wall", "-Wextra", "-Werror"] {
            compiler = compiler.arg(arg);
        }
        for dir in include_dirs() {
            compiler = compiler.arg(&format!("-I{}", dir.display()));
        }
        for flag in pkg_config("--cflags") {
            compiler = compiler.arg(&flag.replacen("-I", "-isystem", 1));
        }
        compiler
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Compiles and links `tests/c/SOURCE.c` as the program `name`.
    pub fn compile(&self, source: &str, name: &str) -> PathBuf {
        self.compile_file(&here().join(format!("tests/c/{source}.c")), name)
    }

    /// Compiles and links `source` as the program `name`.
    pub fn compile_file(&self, source: &Path, name: &str) -> PathBuf {
        let program = scratch().join(name);
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .arg(source)
            .args(["-xnone", "-o"])
            .arg(&program)
            .arg("-L")
            .arg(library_dir())
            .arg("-lspice-qmp-1")
            .args(pkg_config("--libs"));
        run(&mut command, "gcc g++ libc6-dev");
        program
    }
}

fn pkg_config(what: &str) -> Vec<String> {
    let modules = ["gio-unix-2.0", "spice-client-glib-2.0", "json-glib-1.0"];
    let packages = "pkg-config libglib2.0-dev libjson-glib-dev libspice-client-glib-2.0-dev";
    flags_of(what, &modules, packages)
}

/// The output of pkg-config for these modules.
pub fn flags_of(what: &str, modules: &[&str], packages: &str) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.arg(what).args(modules);
    let flags = run(&mut command, packages);
    flags.split_whitespace().map(str::to_owned).collect()
}

/// A command that finds the library.
pub fn with_library(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", library_dir());
    command
}

/// `program` under valgrind: an invalid access or a definite leak is an error.
pub fn valgrind(program: &Path) -> Command {
    let mut command = with_library("valgrind");
    command
        .args(["-q", "--leak-check=full", "--num-callers=30"])
        .args([
            "--show-leak-kinds=definite,indirect",
            "--errors-for-leak-kinds=definite,indirect",
        ])
        .args(["--error-exitcode=99", "--fair-sched=yes"])
        .arg(format!(
            "--suppressions={}",
            here().join("tests/c/glib.supp").display()
        ))
        .arg(program);
    command
}

/// Runs a command, which must succeed, and returns its output. If the program is
/// missing, the error says what to install.
pub fn run(command: &mut Command, packages: &str) -> String {
    fs::create_dir_all(scratch()).expect("a folder in target/tmp");
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("{command:?} does not run ({error}). Install it: apt-get install {packages}")
        });
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Makes the typelib in a folder, without a warning, and returns the text of its GIR.
pub fn typelib(dir: &Path) -> String {
    let packages = "gobject-introspection libgirepository1.0-dev gir1.2-spiceclientglib-2.0 libgstreamer1.0-dev";
    let [include, built] = include_dirs();
    let mut sed = Command::new("sed");
    sed.args(["-E", "-f"])
        .arg(here().join("gir/gtypes.sed"))
        .arg(include.join("spice-qmp/spice-qmp.h"));
    let header = dir.join("spice-qmp.h");
    let text = run(&mut sed, "sed");
    fs::write(&header, text).expect("a file in target/tmp");

    let gir = dir.join("SpiceQmp-1.0.gir");
    let mut scanner = with_library("g-ir-scanner");
    scanner
        .current_dir(dir)
        .args(["--quiet", "--warn-all", "--warn-error"])
        .args(["--identifier-prefix=SpiceQmp1", "--symbol-prefix=spice_qmp"])
        .args(["--namespace=SpiceQmp", "--nsversion=1.0"])
        .args(["--include=GObject-2.0", "--include=Gio-2.0"])
        .arg("--include=SpiceClientGLib-2.0")
        .args(["--pkg=gio-2.0", "--pkg=spice-client-glib-2.0"])
        .args([
            "--pkg-export=spice-qmp-1.0",
            "--c-include=spice-qmp/spice-qmp.h",
        ])
        .arg(format!("-I{}", include.display()))
        .arg(format!("-I{}", built.display()))
        .arg("-L")
        .arg(library_dir())
        .arg("--library=spice-qmp-1")
        .arg(format!("--library-path={}", library_dir().display()))
        .arg("--output")
        .arg(&gir)
        .arg(&header);
    run(&mut scanner, packages);
    let mut compiler = Command::new("g-ir-compiler");
    compiler
        .arg(&gir)
        .arg("-o")
        .arg(dir.join("SpiceQmp-1.0.typelib"));
    run(&mut compiler, packages);
    fs::read_to_string(&gir).expect("the scanner wrote it")
}
