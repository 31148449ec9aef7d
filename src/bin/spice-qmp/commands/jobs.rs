// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `jobs`: lists and follows QEMU's background jobs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;

use gio::prelude::*;
use spice_qmp::{Job, List, QmpPort};

use crate::bars::Bars;
use crate::cli::Jobs;
use crate::commands::model;
use crate::connect::Target;
use crate::ending::{End, report_dropped};
use crate::failure::{Failure, Kind, Stop, note};
use crate::feed::Feed;
use crate::job_line::Entry;
use crate::monitor::Monitor;
use crate::output::Output;
use crate::table;
use crate::wait::{before, over};

/// What changes while jobs are followed.
enum News {
    Job(Entry),
    /// QEMU has forgotten the job.
    Gone(Entry),
    /// The connection has ended.
    End,
}

/// Prints the jobs; follows them if requested.
pub(crate) async fn run(target: &Target, jobs: &Jobs, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            if !jobs.follow {
                return show(monitor, port, output).await;
            }
            let end = End::watch(port);
            let list = model::machine(monitor, port).jobs();
            model::load::<Job>(&list, "query-jobs", monitor, port).await?;
            follow(target, port, &list, end, output).await
        })
        .await
}

/// Queries the jobs and prints them.
pub(crate) async fn show(
    monitor: &Monitor,
    port: &QmpPort,
    output: &mut Output,
) -> Result<(), Stop> {
    let list = model::machine(monitor, port).jobs();
    let jobs = model::load::<Job>(&list, "query-jobs", monitor, port).await?;
    let jobs: Vec<_> = jobs.iter().map(Entry::of).collect();
    if output.is_json() {
        return output.json(&jobs).await;
    }
    if jobs.is_empty() {
        note(false, "no jobs");
    }
    let rows: Vec<_> = jobs.iter().map(Entry::row).collect();
    for line in table::lines(&rows) {
        output.line(line).await?;
    }
    Ok(())
}

async fn follow(
    target: &Target,
    port: &QmpPort,
    list: &List,
    end: End,
    output: &mut Output,
) -> Result<(), Stop> {
    let feed = feed_news(port, list);
    let mut bars = Some(Bars::new()).filter(|it| it.are_shown() && output.is_for_people());
    let mut printed: HashMap<String, Entry> = HashMap::new();
    let mut over = pin!(over(target.limit));
    loop {
        let Some(news) = before(over.as_mut(), feed.next()).await else {
            let millis = target.limit.unwrap_or_default().as_millis();
            let message = format!("QEMU did not end within {millis} ms");
            return Err(Failure::new(Kind::Timeout, message).into());
        };
        report_dropped(output, "changes of jobs", feed.take_dropped());
        match (news, &mut bars) {
            (News::End, _) => return end.result(port),
            (News::Job(job), Some(bars)) => bars.show(&job),
            (News::Gone(job), Some(bars)) => bars.remove(&job, &job.line()),
            (News::Job(job), None) => {
                if printed.get(job.id()) != Some(&job) {
                    job.print(output).await?;
                    printed.insert(job.id().to_owned(), job);
                }
            }
            (News::Gone(job), None) => {
                printed.remove(job.id());
                job.print(output).await?;
            }
        }
    }
}

/// Changes of the jobs, and the end of the connection.
fn feed_news(port: &QmpPort, list: &List) -> Feed<News> {
    let feed = Feed::new();
    let shown = Rc::<RefCell<Vec<(Job, glib::SignalHandlerId)>>>::default();
    let watch = {
        let feed = feed.clone();
        move |job: Job| {
            let push = {
                let feed = feed.clone();
                move |job: &Job| feed.push(News::Job(Entry::of(job)))
            };
            push(&job);
            let handler = job.connect_notify_local(None, move |job, _| push(job));
            (job, handler)
        }
    };
    let change = {
        let feed = feed.clone();
        move |list: &List, at: u32, removed: u32, added: u32| {
            let new = (at..at.saturating_add(added)).filter_map(|at| list.item(at));
            let new = new.filter_map(|item| item.downcast().ok()).map(&watch);
            let new: Vec<_> = new.collect();
            let mut shown = shown.borrow_mut();
            let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
            let at = number(at).min(shown.len());
            let end = at.saturating_add(number(removed)).min(shown.len());
            for (job, handler) in shown.splice(at..end, new) {
                job.disconnect(handler);
                feed.push(News::Gone(Entry::of(&job).gone()));
            }
        }
    };
    change(list, 0, 0, list.n_items());
    list.connect_items_changed(change);
    let push_end = {
        let feed = feed.clone();
        move |port: &QmpPort| {
            if !port.ready() {
                feed.push(News::End);
            }
        }
    };
    push_end(port);
    port.connect_ready_notify(push_end);
    feed
}
