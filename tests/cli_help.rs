// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual pages and completions that meson installs with the tool.
#![cfg(feature = "cli")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const TOOL: &str = env!("CARGO_BIN_EXE_spice-qmp");

fn help_files() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let written = Command::new(TOOL)
        .arg("--write-help-files")
        .arg(folder.path())
        .status();
    assert!(written.expect("the tool runs").success());
    folder
}

fn output(command: &mut Command) -> (String, String) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}: ./dev setup"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{command:?}: {stderr}");
    (stdout, stderr)
}

/// The names of the commands, from the help.
fn commands() -> BTreeSet<String> {
    let (help, _) = output(Command::new(TOOL).arg("--help"));
    let list = help.split("Commands:\n").nth(1).expect("a list");
    let list = list.split("\n\n").next().expect("its end");
    let first = |line: &str| {
        line.strip_prefix("  ")?
            .split(' ')
            .next()
            .map(str::to_owned)
    };
    let names = list.lines().filter_map(first);
    names
        .filter(|name| !name.is_empty() && name != "help")
        .collect()
}

#[test]
fn each_command_has_a_page_that_renders() {
    let folder = help_files();
    let mut expected: BTreeSet<_> = commands()
        .iter()
        .map(|name| format!("spice-qmp-{name}.1"))
        .collect();
    assert!(expected.len() > 10, "{expected:?}");
    expected.insert("spice-qmp.1".to_owned());
    let pages = fs::read_dir(folder.path().join("man1")).expect("a folder");
    let pages: Vec<_> = pages.map(|page| page.expect("a page").path()).collect();
    let names = pages
        .iter()
        .filter_map(|it| it.file_name().and_then(OsStr::to_str));
    assert_eq!(names.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    for page in pages {
        let text = render(&page);
        let name = page.file_stem().and_then(OsStr::to_str).expect("a name");
        for part in ["NAME", "SYNOPSIS", "OPTIONS", "--connect", "SEE ALSO", name] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }
}

/// The text of a page, which renders without warnings.
fn render(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "UTF-8", "-l"])
        .arg(page)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .env_remove("MANPAGER")
        .env_remove("MANROFFOPT");
    let (text, complaints) = output(&mut man);
    assert_eq!(complaints, "", "{}", page.display());
    text
}

#[test]
fn the_page_has_what_the_help_has() {
    let folder = help_files();
    let text = render(&folder.path().join("man1/spice-qmp.1"));
    // man hyphenates and fills.
    for part in [
        "ADDRESSES",
        "spice+unix:///path",
        "EXIT CODES",
        "SPICE_QMP_ADDRESS",
        "spice-qmp-status(1)",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let text = render(&folder.path().join("man1/spice-qmp-exec.1"));
    let example = "\n       spice-qmp exec query-block\n";
    assert!(text.contains(example), "{text}");
}

#[test]
fn bash_completes() {
    let folder = help_files();
    let script = "set -e; . \"$0\"; complete -p spice-qmp
        function=$(complete -p spice-qmp | sed 's/.* -F \\([^ ]*\\).*/\\1/'); complete_ () {
        COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        \"$function\" \"$1\" \"${!#}\" \"${COMP_WORDS[COMP_CWORD - 1]}\" || :
        echo \"$*:\" \"${COMPREPLY[@]}\"; }
        complete_ spice-qmp sta; complete_ spice-qmp status --js; complete_ spice-qmp --con";
    let file = folder.path().join("completions/spice-qmp");
    let (text, complaints) = output(Command::new("bash").args(["-c", script]).arg(file));
    assert_eq!(complaints, "");
    for line in [
        "spice-qmp sta: status",
        "spice-qmp status --js: --json",
        "spice-qmp --con: --connect",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line:?} in {text}");
    }
}

/// Presses Tab in a zsh that a person would have, and has it print the line then.
#[test]
fn zsh_completes() {
    let folder = help_files();
    let script = r#"zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -D -u
            show() { print -r -- \"<\$BUFFER>\"; BUFFER=; }; zle -N show; bindkey '^O' show"
        shift
        for line; do zpty -w -n shell $line$'\t\x0f'; done
        zpty -w shell 'print THE; print END; exit'
        zpty -r shell text $'*THE*THE\r\nEND*'
        print -r -- $text"#;
    let lines = [
        ("spice-qmp sta", "spice-qmp status "),
        ("spice-qmp status --js", "spice-qmp status --json "),
        ("spice-qmp --con", "spice-qmp --connect="),
        ("spice-qmp snapshot del", "spice-qmp snapshot delete "),
    ];
    let mut zsh = Command::new("zsh");
    zsh.args(["-f", "-c", script, "zsh"])
        .arg(folder.path().join("site-functions"))
        .args(lines.map(|(typed, _)| typed))
        .env("TERM", "dumb");
    let (text, complaints) = output(&mut zsh);
    assert_eq!(complaints, "");
    for (typed, line) in lines {
        let shown = text.contains(&format!("<{line}>"));
        assert!(shown, "{typed:?} does not become {line:?}: {text}");
    }
}

#[test]
fn fish_completes() {
    let folder = help_files();
    let script = "set fish_complete_path $argv[1]
        for line in $argv[2..]
            echo (complete -C $line)
        end";
    let lines = [
        (
            "spice-qmp sta",
            "status\tShow whether the machine runs, and QEMU's version",
        ),
        (
            "spice-qmp status --js",
            "--json\tResults and errors as JSON, for programs",
        ),
        ("spice-qmp snapshot del", "delete\tDelete a snapshot"),
    ];
    // It completes what can be executed only.
    let tool = Path::new(TOOL).parent().expect("a folder");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [tool.to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", script, "--"])
        .arg(folder.path().join("vendor_completions.d"))
        .args(lines.map(|(typed, _)| typed))
        .env("PATH", std::env::join_paths(path).expect("a path"))
        .env("HOME", folder.path())
        .env("LC_ALL", "C.UTF-8");
    let (text, complaints) = output(&mut fish);
    assert_eq!(complaints, "");
    let expected = lines.map(|(_, completed)| completed);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}
