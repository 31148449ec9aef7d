//! Measures spice-qmp beside its peers, all in one run: `./dev bench`.

mod clients;
mod common;
mod counted;
mod decoder;
mod heap;
mod live;
mod machine;
mod measure;
mod plot;
mod ports;
mod python;
mod report;
mod server;
mod subjects;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use measure::Workload;
use report::{Report, Row};

/// Measures spice-qmp beside its peers, all in one run.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools, reason = "options are")]
#[command(name = "./dev bench")]
struct Args {
    /// Fewer rounds of less work: about a minute
    #[arg(long)]
    quick: bool,
    /// Print JSON, for machines
    #[arg(long)]
    json: bool,
    /// Print the table for a document
    #[arg(long)]
    markdown: bool,
    /// Write the table, the machine and the pictures into docs/performance.md
    #[arg(long)]
    docs: bool,
    /// Times alone: no counts of allocations and instructions
    #[arg(long)]
    no_counts: bool,
    /// Only workloads with one of these in their name
    filters: Vec<String>,
    /// Serve this socket, as the server of a benchmark.
    #[arg(long, hide = true)]
    respond: Option<PathBuf>,
    /// Do a task for the benchmark: its kind, the workload, who does it, how often.
    #[arg(long, hide = true, num_args = 4)]
    child: Option<Vec<String>>,
}

fn wanted(filters: &[String], id: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| id.contains(filter))
}

fn workloads(quick: bool, events: usize) -> Vec<Workload> {
    let mut all = decoder::event_workloads(events);
    all.push(decoder::cycle_workload(quick));
    all.extend(decoder::reply_workloads(quick));
    all
}

fn main() {
    let args = Args::parse();
    if let Some(path) = &args.respond {
        return server::respond(path);
    }
    if let Some(task) = &args.child {
        return child(task);
    }
    measure::pin(server::CLIENT_CORE);
    let mut report = Report::default();
    let rounds = if args.quick { 3 } else { 5 };
    for workload in workloads(args.quick, if args.quick { 40_000 } else { 200_000 }) {
        if !wanted(&args.filters, &workload.id) {
            continue;
        }
        for (who, figures) in workload.run(rounds) {
            let mut row = Row::new(
                &workload.id,
                &workload.title,
                who,
                workload.unit,
                figures,
                workload.target,
            );
            if workload.counted && !args.no_counts {
                // A large reply tells nothing that a small one does not.
                let instructions = !args.quick && !workload.id.starts_with("reply-9m");
                match counted::count(&workload, who, instructions) {
                    Ok(counted) => row.counted = counted,
                    Err(why) => {
                        report.leave_out(&format!("counts of {}, {who}", workload.id), &why);
                    }
                }
            }
            report.add(row);
        }
    }
    let plan = live::Plan {
        rounds,
        quick: args.quick,
        wanted,
        filters: args.filters,
    };
    live::run(&plan, &mut report);
    let ports = ["ports-memory", "ports-wakeups", "ports-event"];
    if ports.iter().any(|id| wanted(&plan.filters, id)) {
        ports::run(&mut report);
    }
    if args.json {
        println!("{:#}", report.json());
    } else if args.markdown {
        print!("{}", report.markdown());
    } else {
        print!("{}", report.text());
    }
    if args.docs {
        document(&report, args.quick);
    }
}

/// Puts the run into docs/performance.md, between its two marks.
fn document(report: &Report, quick: bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    plot::draw(report, &folder).expect("the pictures can be written");
    let path = folder.join("performance.md");
    let text = fs::read_to_string(&path).expect("docs/performance.md");
    let (before, rest) = text.split_once(START).expect("the mark of the run's start");
    let (_, after) = rest.split_once(END).expect("the mark of the run's end");
    let kind = if quick { "A quick run" } else { "A full run" };
    let machine = machine::describe();
    let run = format!(
        "{START}\n\n{kind} on: {machine}\n\n{}\n{END}",
        report.markdown()
    );
    fs::write(&path, format!("{before}{run}{after}")).expect("docs/performance.md is ours");
}

const START: &str = "<!-- written by ./dev bench --docs: start -->";
const END: &str = "<!-- written by ./dev bench --docs: end -->";

/// A child's task; its only output is the result.
fn child(task: &[String]) {
    let [kind, id, who, count] = task else {
        unreachable!("clap counts them")
    };
    if kind == "ports" {
        return ports::child(who);
    }
    let count = count.parse().expect("a number");
    let mut workloads = workloads(false, 4_000);
    workloads.retain(|workload| workload.id == *id);
    let case = workloads[0].cases.iter().find(|case| case.who == *who);
    let mut work = (case.expect("a case of that name").start)();
    match kind.as_str() {
        "heap" => counted::heap_of(&mut work, count),
        "work" => work(count),
        _ => panic!("no such task: {kind}"),
    }
}
