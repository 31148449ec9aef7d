// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `job`: runs a job from the command that starts it to its end.

use std::future::{IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use serde_json::json;
use spice_qmp::{Error, Job, Machine};

use crate::bars::Bars;
use crate::cli::JobArgs;
use crate::commands::exec;
use crate::connect::Target;
use crate::failure::{Failure, Kind, Stop, note};
use crate::feed::Feed;
use crate::job_line::Entry;
use crate::output::Output;
use crate::wait::over;

/// What happens while a job runs.
enum Step {
    /// The job has appeared, or made progress.
    Progress(Entry),
    /// QEMU refuses to cancel it.
    Refused(Error),
    /// It is over.
    End(Result<(), Error>),
    /// The time has passed.
    Late,
}

/// What the handlers report.
enum News {
    Job(Job),
    Refused(Error),
}

/// Why the tool cancels the job.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Signal(i32),
    Late,
}

/// Starts the job, shows its progress, and waits for its end.
pub(crate) async fn run(target: &Target, args: &JobArgs, output: &mut Output) -> Result<(), Stop> {
    let arguments = exec::arguments(&args.arguments)?;
    let (command, json) = (args.name.as_str(), output.is_json());
    target
        .on_port(async |monitor, port| {
            let machine = Machine::new(port);
            let feed = Feed::new();
            let job = machine.run_job_with(command, arguments.as_ref().map(|it| it.get()));
            let job = job.progress({
                let feed = feed.clone();
                move |job| feed.push(News::Job(job.clone()))
            });
            let mut running = Running {
                end: job.into_future(),
                over: Box::pin(over(target.limit)),
                feed,
                job: None,
                reason: None,
                asked: false,
            };
            let mut bars = Some(Bars::new()).filter(|it| it.are_shown() && !json);
            let mut last = None;
            let end = loop {
                let step = match monitor.signals.or(running.next()).await {
                    Ok(step) => step,
                    Err(signal) if running.reason.is_some() => return Err(Stop::Signal(signal)),
                    Err(signal) => {
                        let message = format!(
                            "QEMU is asked to cancel {command}. Press Ctrl+C again to leave at once"
                        );
                        say(bars.as_ref(), json, &message);
                        running.cancel(Reason::Signal(signal));
                        continue;
                    }
                };
                match step {
                    Step::Progress(job) if last.as_ref() != Some(&job) => {
                        if let Some(bars) = &mut bars {
                            bars.show(&job);
                        } else if json {
                            job.print(output).await?;
                        }
                        last = Some(job);
                    }
                    Step::Progress(_) => {}
                    Step::Refused(error) => say(bars.as_ref(), json, &error.to_string()),
                    Step::Late => running.cancel(Reason::Late),
                    Step::End(end) => break end,
                }
            };
            drop(bars);
            match (end, running.reason) {
                (Ok(()), _) if json => output.json(&json!({ "completed": command })).await,
                (Ok(()), _) => output.line(format!("{command} has completed.")).await,
                (Err(Error::Cancelled(_)), Some(Reason::Signal(signal))) => {
                    note(json, &format!("{command} was cancelled"));
                    Err(Stop::Signal(signal))
                }
                (Err(Error::Cancelled(_)), Some(Reason::Late)) => {
                    let millis = target.limit.unwrap_or_default().as_millis();
                    let message =
                        format!("{command} did not end within {millis} ms, and was cancelled");
                    Err(Failure::new(Kind::Timeout, message).into())
                }
                (Err(Error::Cancelled(_)), None) => {
                    let message = format!("{command} was cancelled by another client");
                    Err(Failure::new(Kind::Qmp, message).into())
                }
                (Err(error), _) if starts_none(&error) => Err(Failure::from(error)
                    .hint(format!("{command} starts no job: use spice-qmp exec"))
                    .into()),
                (Err(error), _) => Err(exec::explain(monitor, port, error).await.into()),
            }
        })
        .await
}

/// Whether the command does not take a job id.
fn starts_none(error: &Error) -> bool {
    matches!(error, Error::Command { desc, .. } if desc.contains("'job-id' is unexpected"))
}

fn say(bars: Option<&Bars>, json: bool, message: &str) {
    match bars {
        Some(bars) => bars.note(json, message),
        None => note(json, message),
    }
}

/// A running job.
struct Running {
    end: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    over: Pin<Box<dyn Future<Output = ()>>>,
    feed: Feed<News>,
    /// The job, once it has appeared.
    job: Option<Job>,
    reason: Option<Reason>,
    /// Whether QEMU was asked to cancel it.
    asked: bool,
}

impl Running {
    /// Cancels the job, or as soon as it has appeared.
    fn cancel(&mut self, reason: Reason) {
        self.reason = Some(reason);
        self.ask();
    }

    fn ask(&mut self) {
        if let Some(job) = &self.job
            && self.reason.is_some()
            && !std::mem::replace(&mut self.asked, true)
        {
            let (cancelled, feed) = (job.cancel(), self.feed.clone());
            glib::spawn_future_local(async move {
                if let Err(error) = cancelled.await {
                    feed.push(News::Refused(error));
                }
            });
        }
    }

    async fn next(&mut self) -> Step {
        let step = {
            let mut news = pin!(self.feed.next());
            poll_fn(|cx| {
                if let Poll::Ready(news) = news.as_mut().poll(cx) {
                    return Poll::Ready(Err(news));
                }
                if let Poll::Ready(end) = self.end.as_mut().poll(cx) {
                    return Poll::Ready(Ok(Step::End(end)));
                }
                if self.reason.is_none() && self.over.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Step::Late));
                }
                Poll::Pending
            })
            .await
        };
        match step {
            Ok(step) => step,
            Err(News::Refused(error)) => Step::Refused(error),
            Err(News::Job(job)) => {
                let progress = Step::Progress(Entry::of(&job));
                self.job = Some(job);
                self.ask();
                progress
            }
        }
    }
}
