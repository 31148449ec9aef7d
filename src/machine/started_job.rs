// SPDX-License-Identifier: MIT OR Apache-2.0
//! A job that is followed from its command to its end.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glib::prelude::*;

use super::job_course::{Course, Stage, Subject};
use super::job_progress::{Progress, Watch};
use crate::handlers::disconnect;
use crate::port::{CallOptions, QmpPort};
use crate::qmp::{Band, Error};

/// A job that is followed to its end. Dropping this cancels it, and ensures that QEMU forgets it.
pub(super) struct StartedJob {
    port: QmpPort,
    job: Rc<RefCell<Kept>>,
    progress: Option<Progress>,
    watch: Option<Watch>,
}

/// What the port's handlers hold of a job. It does not hold the port.
struct Kept {
    course: Course,
    /// The reply to the command.
    reply: Option<Result<(), Error>>,
    /// Whether its future was dropped.
    is_abandoned: bool,
    is_cancelled: bool,
    waker: Option<Waker>,
    handlers: Vec<glib::SignalHandlerId>,
}

impl StartedJob {
    /// Executes the command that starts it. Events may come before the reply.
    pub(super) fn start(
        port: &QmpPort,
        command: &str,
        arguments: &str,
        subject: Subject,
        progress: Option<Progress>,
    ) -> Self {
        let events = subject.events();
        let job = Rc::new(RefCell::new(Kept {
            course: Course::new(subject),
            reply: None,
            is_abandoned: false,
            is_cancelled: false,
            waker: None,
            handlers: Vec::new(),
        }));
        let handlers = events.iter().map(|name| {
            let job = job.clone();
            port.connect_qmp_event(Some(name), move |port, event| {
                job.borrow_mut().course.event(event);
                go_on(&job, port);
            })
        });
        let handlers = handlers.collect();
        job.borrow_mut().handlers = handlers;
        let (weak, own) = (port.downgrade(), job.clone());
        port.execute_with(command, Some(arguments), NO_DEADLINE, move |reply| {
            let mut job = own.borrow_mut();
            job.course.answered();
            job.reply = Some(reply.map(drop));
            drop(job);
            if let Some(port) = weak.upgrade() {
                go_on(&own, &port);
            }
        });
        Self {
            port: port.clone(),
            job,
            progress,
            watch: None,
        }
    }

    /// Waits until the command was answered and the job is not alive, or the connection has
    /// ended.
    pub(super) async fn stopped(&mut self) -> Result<Stage, Error> {
        // There is no such run state: only the end of the connection ends this wait.
        let mut lost = pin!(self.port.wait_for_status([]));
        poll_fn(|cx| {
            self.watch();
            match self.poll(cx) {
                Poll::Pending => lost.as_mut().poll(cx).map(|end| {
                    // The next connection may be to a different QEMU.
                    self.set_stage(Stage::Gone);
                    end.map(|()| Stage::Gone)
                }),
                ready @ Poll::Ready(_) => ready,
            }
        })
        .await
    }

    /// Follows its progress once it exists: its id may have been another job's before.
    fn watch(&mut self) {
        let job = self.job.borrow();
        if job.reply == Some(Ok(())) && self.watch.is_none() {
            let id = job.course.subject().id().to_owned();
            drop(job);
            self.watch = self.progress.as_ref().map(|it| it.watch(&id));
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<Stage, Error>> {
        let mut job = self.job.borrow_mut();
        match (&job.reply, job.course.stage()) {
            (Some(Err(error)), _) => return Poll::Ready(Err(error.clone())),
            (Some(Ok(())), stage) if stage != Stage::Alive => return Poll::Ready(Ok(stage)),
            _ => {}
        }
        job.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// QEMU lists the job as alive. Events may have reported more by now.
    pub(super) fn found_alive(&self) {
        let course = &mut self.job.borrow_mut().course;
        if course.stage() == Stage::Unknown {
            course.set_stage(Stage::Alive);
        }
    }

    /// Sets the stage, which QEMU has reported in another way than by an event.
    pub(super) fn set_stage(&self, stage: Stage) {
        self.job.borrow_mut().course.set_stage(stage);
    }

    /// The result; `error` is QEMU's reply to the question for it.
    pub(super) fn result(&self, command: &str, error: Option<&str>) -> Result<(), Error> {
        self.job.borrow().course.result(command, error)
    }
}

impl Drop for StartedJob {
    fn drop(&mut self) {
        self.job.borrow_mut().is_abandoned = true;
        go_on(&self.job, &self.port);
    }
}

/// Wakes the task that waits for the job, or finishes a job whose future was dropped.
fn go_on(job: &Rc<RefCell<Kept>>, port: &QmpPort) {
    let mut job = job.borrow_mut();
    if !job.is_abandoned {
        let waker = job.waker.take();
        drop(job);
        return waker.into_iter().for_each(Waker::wake);
    }
    let (stage, subject) = (job.course.stage(), job.course.subject());
    let command = match (&job.reply, stage) {
        (None, _) => return,
        (Some(Ok(())), Stage::Alive) if job.is_cancelled => return,
        (Some(Ok(())), Stage::Unknown | Stage::Alive) if port.ready() => Some(subject.cancel()),
        (Some(Ok(())), Stage::Concluded) if port.ready() => subject.dismiss(),
        _ => None,
    };
    let goes_on = stage == Stage::Alive && command.is_some();
    job.is_cancelled = goes_on;
    let handlers = if goes_on {
        Vec::new()
    } else {
        std::mem::take(&mut job.handlers)
    };
    // Nothing is borrowed: this may drop the last reference.
    drop(job);
    for handler in handlers {
        disconnect(port, handler);
    }
    if let Some((command, arguments)) = command {
        port.execute_with(command, arguments.as_deref(), NO_DEADLINE, |_| ());
    }
}

/// QEMU may take its time, and is to be asked all the same.
const NO_DEADLINE: CallOptions = CallOptions {
    band: Band::In,
    timeout: Some(Duration::MAX),
};
