// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls a program's function when a job makes progress.

use std::cell::RefCell;
use std::rc::Rc;

use gio::prelude::*;

use super::job::Job;
use super::list::List;
use crate::handlers::disconnect;

/// The function to call, and the list that contains the job.
pub(super) struct Progress {
    list: List,
    call: Rc<dyn Fn(&Job)>,
}

/// Follows a job in the list, until dropped.
pub(super) struct Watch {
    list: List,
    handler: Option<glib::SignalHandlerId>,
    watched: Rc<RefCell<Option<Watched>>>,
}

struct Watched {
    job: Job,
    handler: Option<glib::SignalHandlerId>,
}

impl Progress {
    pub(super) fn new(list: List, call: Rc<dyn Fn(&Job)>) -> Self {
        Self { list, call }
    }

    /// Calls the function when the job with this id appears, and whenever its progress changes.
    pub(super) fn watch(&self, id: &str) -> Watch {
        let watched = Rc::<RefCell<Option<Watched>>>::default();
        let (slot, id, call) = (watched.clone(), id.to_owned(), self.call.clone());
        let find = move |list: &List| {
            // The job stays the same object.
            if slot.borrow().is_none()
                && let Some(job) = list.find::<Job>(&id)
            {
                slot.replace(Some(Watched::new(&job, &call)));
                call(&job);
            }
        };
        find(&self.list);
        let handler = self
            .list
            .connect_items_changed(move |list, _, _, _| find(list));
        self.list.refresh();
        Watch {
            list: self.list.clone(),
            handler: Some(handler),
            watched,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            disconnect(&self.list, handler);
        }
        self.watched.take();
    }
}

impl Watched {
    fn new(job: &Job, call: &Rc<dyn Fn(&Job)>) -> Self {
        let call = call.clone();
        let handler = job.connect_progress_notify(move |job| call(job));
        Self {
            job: job.clone(),
            handler: Some(handler),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            disconnect(&self.job, handler);
        }
    }
}
