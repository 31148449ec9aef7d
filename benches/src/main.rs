// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures spice-qmp beside its peers, all in one run: `./dev bench`.

mod common;
mod counted;
mod live;
mod machine;
mod measure;
mod peers;
mod report;
mod server;
mod subjects;
mod wire;
mod work;

use std::fs;
use std::path::PathBuf;

use clap::Parser;

use measure::{Contest, Start};
use report::Report;

/// The participants of many contests: this library, and its main peer.
const OURS: &str = "ours";
const HELPER: &str = "spice-gtk helper";
/// A lower bound.
const FLOOR: &str = "floor";

/// Measures spice-qmp beside its peers, all in one run.
#[derive(Parser)]
#[command(name = "./dev bench")]
struct Args {
    /// Only rows with this in their name; may be repeated
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Name the rows
    #[arg(long)]
    list: bool,
    /// Count the instructions of each message, too: minutes more
    #[arg(long)]
    instructions: bool,
    /// Write the tables into docs/performance.md
    #[arg(long, conflicts_with = "only")]
    docs: bool,
    /// Serve this socket, as the server of a benchmark.
    #[arg(long, hide = true)]
    respond: Option<PathBuf>,
    /// Be a client, as instructed on standard input: its name, the server, a signal.
    #[arg(long, hide = true, num_args = 2..=3)]
    client: Option<Vec<String>>,
    /// Do a task for the benchmark: its kind, the row, who does it, how often.
    #[arg(long, hide = true, num_args = 4)]
    child: Option<Vec<String>>,
}

fn main() {
    let args = Args::parse();
    if let Some(path) = &args.respond {
        return server::respond(path);
    }
    if let Some([name, server, signal @ ..]) = args.client.as_deref() {
        return peers::serve(name, server, signal.first().map(String::as_str));
    }
    if let Some(task) = &args.child {
        return child(task);
    }
    let mut contests = work::contests();
    contests.extend(live::contests());
    contests.extend(counted::contests());
    let is_wanted =
        |id: &str| args.only.is_empty() || args.only.iter().any(|only| id.contains(only));
    contests.retain(|contest| contest.rows.iter().any(|row| is_wanted(row.id)));
    if args.list || contests.is_empty() {
        contests = work::contests();
        contests.extend(live::contests());
        contests.extend(counted::contests());
        for row in contests.iter().flat_map(|contest| &contest.rows) {
            println!("{:16} {}", row.id, row.title);
        }
        return;
    }
    measure::pin(server::CLIENT_CORE);
    let mut report = Report::default();
    for contest in contests {
        run(contest, args.instructions, &mut report);
    }
    println!("{}", report.text());
    if args.docs {
        document(&report);
    }
}

fn run(mut contest: Contest, instructions: bool, report: &mut Report) {
    for (who, why) in contest.run() {
        report
            .left_out
            .push(format!("left out: {}, {who}: {why}", contest.rows[0].id));
    }
    for (who, start) in &contest.cases {
        if instructions && matches!(start, Start::Work(_)) {
            let id = contest.rows[0].id;
            match counted::instructions(id, who, contest.count) {
                Ok(count) => report.instructions.push((id, who, count)),
                Err(why) => report
                    .left_out
                    .push(format!("left out: {id}, {who}: {why}")),
            }
        }
    }
    for row in contest.rows {
        // The table comes at the end; this shows the progress.
        eprintln!("{}", row.id);
        report.rows.push(row);
    }
}

/// Writes the run into docs/performance.md, between its two marks.
fn document(report: &Report) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");
    let text = fs::read_to_string(path).expect("docs/performance.md");
    let (before, rest) = text.split_once(START).expect("the mark of the run's start");
    let (_, after) = rest.split_once(END).expect("the mark of the run's end");
    let (machine, tables) = (machine::describe(), report.markdown());
    let run = format!("{START}\n\n{tables}\nMeasured on: {machine}\n\n{END}");
    fs::write(path, format!("{before}{run}{after}")).expect("docs/performance.md is ours");
}

const START: &str = "<!-- written by ./dev bench --docs: start -->";
const END: &str = "<!-- written by ./dev bench --docs: end -->";

/// A child's task; its only output is the result.
fn child(task: &[String]) {
    let [task, id, who, count] = task else {
        unreachable!("clap counts them")
    };
    let work = work::contests()
        .into_iter()
        .find(|contest| contest.rows[0].id == *id)
        .map(|contest| {
            let mut cases = contest.cases.into_iter();
            match cases.find(|(name, _)| name == who) {
                Some((_, Start::Work(start))) => start(),
                _ => panic!("no such case: {who}"),
            }
        });
    counted::do_task(task, work, who, count.parse().expect("a number"));
}
