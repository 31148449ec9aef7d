// SPDX-License-Identifier: MIT OR Apache-2.0
//! Progress bars of jobs, on standard error if that is a terminal.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::failure::note;
use crate::job_line::Entry;
use crate::style::escaped;

/// A bar for each running job. They disappear when this is dropped.
pub(crate) struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

/// A server may list any number of jobs.
const MOST: usize = 20;

/// As in the [template](Bars::show), whose parts are not checked for escapes.
const TEMPLATE: &str = "{prefix} [{bar:24}] {percent:>3} % {wide_msg}";

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            bars: HashMap::new(),
        }
    }

    /// Whether a person can see them.
    pub(crate) fn are_shown(&self) -> bool {
        !self.all.is_hidden()
    }

    /// Shows the progress of a job.
    pub(crate) fn show(&mut self, job: &Entry) {
        if !self.bars.contains_key(job.id()) && self.bars.len() == MOST {
            return;
        }
        let bar = self.bars.entry(job.id().to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::no_length());
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(escaped(job.id()));
            bar
        });
        bar.set_length(job.total().max(1));
        bar.set_position(job.current().min(job.total()));
        bar.set_message(escaped(&job.what()));
    }

    /// Removes a job that has ended, and prints its last line.
    pub(crate) fn remove(&mut self, job: &Entry, line: &str) {
        if let Some(bar) = self.bars.remove(job.id()) {
            self.all.remove(&bar);
        }
        // If it cannot be written, there is nowhere to report that.
        let _ = self.all.println(escaped(line));
    }

    /// Prints a message that is not an error, above the bars.
    pub(crate) fn note(&self, json: bool, message: &str) {
        self.all.suspend(|| note(json, message));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}
