//! What a message costs in allocations, instructions and memory: counted in
//! children of this program, one for each case, so that nothing else is in it.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::heap;
use crate::measure::{Work, Workload};

/// The counts of a case, where they were taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Of each message, like the next two.
    pub allocations: Option<f64>,
    pub bytes: Option<f64>,
    pub instructions: Option<f64>,
    /// The most that the heap held above the start, and what it kept: of the first
    /// time that the case did its work.
    pub peak: Option<u64>,
    pub kept: Option<u64>,
    /// The same of the whole process, as the system sees it.
    pub resident_peak: Option<u64>,
    pub resident_kept: Option<u64>,
}

impl Counted {
    /// The memory in words.
    pub fn memory(&self) -> String {
        match (self.peak, self.kept) {
            (Some(peak), Some(kept)) => format!("{} / {}", size(peak), size(kept)),
            _ => String::new(),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// How many messages a child counts, and how many more for the difference.
pub fn messages(workload: &Workload) -> (usize, usize) {
    if workload.id.starts_with("reply-9m") {
        (1, 1)
    } else if workload.id.starts_with("reply") {
        (1, 3)
    } else {
        (500, 2_000)
    }
}

/// The child's task: counts the heap of a case, and prints it.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub fn heap_of(work: &mut Work, count: usize) {
    let resident = memory("VmRSS:");
    let first = heap::count(|| work(count));
    let peak = memory("VmHWM:");
    let kept = memory("VmRSS:");
    let then = heap::count(|| work(count));
    let counted = Counted {
        allocations: Some(then.allocations as f64 / count as f64),
        bytes: Some(then.bytes as f64 / count as f64),
        peak: Some(first.peak),
        kept: Some(first.kept),
        resident_peak: Some(peak.saturating_sub(resident)),
        resident_kept: Some(kept.saturating_sub(resident)),
        ..Counted::default()
    };
    println!("{}", serde_json::to_string(&counted).expect("plain data"));
}

/// What the system says of this process's memory, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or_default()
        * 1024
}

/// Counts a case in children.
pub fn count(workload: &Workload, who: &str, instructions: bool) -> Result<Counted, String> {
    let (few, more) = messages(workload);
    let task = |kind: &str, count: usize| {
        [
            "--child".to_owned(),
            kind.into(),
            workload.id.clone(),
            who.into(),
            count.to_string(),
        ]
    };
    let program = std::env::current_exe().expect("this program");
    // GLib's own allocator takes slices of what it got: it must not.
    let output = Command::new(&program)
        .args(task("heap", few + more))
        .env("G_SLICE", "always-malloc")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let mut counted: Counted = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("a child failed: {} {who}", workload.id))?;
    if instructions {
        let of = |count| instructions_of(&program, &task("work", count));
        let difference = of(few + more)?.saturating_sub(of(few)?);
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let each = difference as f64 / more as f64;
        counted.instructions = Some(each);
    }
    Ok(counted)
}

fn instructions_of(program: &Path, task: &[String]) -> Result<u64, String> {
    let out = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "-q"])
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(program)
        .args(task)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|_| "valgrind is missing: apt-get install valgrind".to_owned())?;
    if !status.success() {
        return Err(format!("callgrind failed: {task:?}"));
    }
    let text = std::fs::read_to_string(out.path()).map_err(|error| error.to_string())?;
    let summary = text.lines().find_map(|line| line.strip_prefix("summary: "));
    summary
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| "callgrind gave no summary".into())
}
