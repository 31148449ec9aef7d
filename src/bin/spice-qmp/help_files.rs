// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generates manual pages and shell completions from the command line's definition.
//!
//! meson installs them with the tool; the folders that they are written to have the
//! names of the folders that they are installed in.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::Cli;

/// The folder given by the hidden option, if present.
pub(crate) fn folder() -> Option<PathBuf> {
    let mut args = std::env::args_os().skip(1);
    let asked = args.next()? == "--write-help-files";
    args.next().filter(|_| asked).map(PathBuf::from)
}

/// Writes all of them.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let pages = create(folder.join("man1"))?;
    for command in command.get_subcommands().chain([&command]) {
        let version = concat!("spice-qmp ", env!("CARGO_PKG_VERSION"));
        let man = Man::new(command.clone())
            .source(version)
            .manual("User Commands");
        let mut file = File::create(pages.join(man.get_filename()))?;
        write_page(&man, command, &mut file)?;
    }
    for (shell, place, name) in [
        (Shell::Bash, "completions", "spice-qmp"),
        (Shell::Zsh, "site-functions", "_spice-qmp"),
        (Shell::Fish, "vendor_completions.d", "spice-qmp.fish"),
    ] {
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "spice-qmp", &mut script);
        fs::write(create(folder.join(place))?.join(name), script)?;
    }
    Ok(())
}

fn create(folder: PathBuf) -> io::Result<PathBuf> {
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn write_page(man: &Man, command: &clap::Command, file: &mut impl Write) -> io::Result<()> {
    man.render_title(file)?;
    man.render_name_section(file)?;
    man.render_synopsis_section(file)?;
    man.render_description_section(file)?;
    man.render_options_section(file)?;
    let is_main = command.get_name() == "spice-qmp";
    if command.has_subcommands() {
        man.render_subcommands_section(file)?;
    }
    let mut page = Roff::new();
    let details = command.get_after_long_help();
    if let Some(details) = details.or_else(|| command.get_after_help()) {
        add_details(&details.to_string(), &mut page);
    }
    page.control("SH", ["SEE ALSO"]);
    let others = if is_main {
        "qemu(1), qemu-qmp-ref(7)"
    } else {
        "spice-qmp(1), which has the addresses and exit codes; qemu-qmp-ref(7)"
    };
    page.text([roman(others)]);
    page.to_writer(file)
}

/// The text after the options in the help: paragraphs under titles.
fn add_details(details: &str, page: &mut Roff) {
    let mut title = "";
    for (at, block) in details.split("\n\n").enumerate() {
        let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
        let block = match first.strip_suffix(':') {
            Some(name) if !first.starts_with(' ') => {
                title = name;
                page.control("SH", [title.to_uppercase().as_str()]);
                rest
            }
            _ => {
                match at {
                    0 => page.control("SH", ["DETAILS"]),
                    _ => page.control("PP", []),
                };
                block
            }
        };
        add_block(block, title == "Examples", page);
    }
}

/// A paragraph, or lines that stay unchanged: examples and tables.
fn add_block(block: &str, stays: bool, page: &mut Roff) {
    let lines = || block.lines().map(|it| it.strip_prefix("  ").unwrap_or(it));
    let stays = stays || lines().any(|line| line.contains("  "));
    if stays {
        page.control("nf", []);
    }
    for line in lines() {
        page.text([roman(line)]);
    }
    if stays {
        page.control("fi", []);
    }
}
