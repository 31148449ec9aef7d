//! Measures spice-qmp beside its peers, all in one run: `./dev bench`.

mod decoder;
mod heap;
mod measure;
mod subjects;
mod wire;

#[path = "../../tests/common/mod.rs"]
mod common;

use clap::Parser;

use measure::Workload;

/// Measures spice-qmp beside its peers.
#[derive(Parser)]
#[command(name = "./dev bench")]
struct Args {
    /// Fewer rounds of less work.
    #[arg(long)]
    quick: bool,
    /// Only workloads with one of these in their name.
    filters: Vec<String>,
}

fn main() {
    let args = Args::parse();
    measure::pin(1);
    let mut all: Vec<Workload> = decoder::event_workloads(args.quick);
    all.push(decoder::cycle_workload(args.quick));
    all.extend(decoder::reply_workloads(args.quick));
    all.retain(|it| {
        args.filters.is_empty() || args.filters.iter().any(|filter| it.id.contains(filter))
    });
    let rounds = if args.quick { 3 } else { 7 };
    for workload in &all {
        println!("{} ({})", workload.title, workload.id);
        for (who, figures) in workload.run(rounds) {
            println!(
                "  {who:34} {:>10.3} [{:.3} - {:.3}] {}  target {:?}",
                figures.median(),
                figures.min(),
                figures.max(),
                workload.unit.name(),
                workload.target,
            );
        }
    }
}
