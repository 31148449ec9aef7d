// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks the program for passwords, one after the other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glib::prelude::*;
use glib::subclass::SignalId;

use super::Connector;
use crate::home::Home;

/// The signal that asks for a password.
pub(super) const NEED_PASSWORD: &str = "need-password";

/// A password, or `None` if there will be none.
type Answer = Option<Box<str>>;

/// The unanswered questions. Only the first one is put to the program, so that an answer
/// is never for a server that the program does not know about.
#[derive(Default)]
pub(super) struct Questions(RefCell<VecDeque<Rc<Question>>>);

struct Question {
    retry: bool,
    /// The context on which its caller waits: the signal is emitted there.
    home: Home,
    asked: Cell<bool>,
    answer: RefCell<Option<Answer>>,
    waker: RefCell<Option<Waker>>,
}

impl Questions {
    /// Answers the question that was asked, if any.
    pub(super) fn answer(&self, password: Option<&str>) {
        let first = self.0.borrow().front().cloned();
        if let Some(question) = first.filter(|question| question.asked.get()) {
            question.answer(password.map(Into::into));
        }
    }
}

impl Question {
    fn answer(&self, answer: Answer) {
        if self.answer.borrow().is_none() {
            self.answer.replace(Some(answer));
        }
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A question that waits for its answer. Dropping it withdraws it.
pub(super) struct Asking {
    connector: Connector,
    question: Rc<Question>,
}

impl Asking {
    pub(super) fn new(connector: &Connector, retry: bool) -> Self {
        let question = Rc::new(Question {
            retry,
            home: Home::here(),
            asked: Cell::default(),
            answer: RefCell::default(),
            waker: RefCell::default(),
        });
        let mut questions = connector.questions().0.borrow_mut();
        questions.push_back(question.clone());
        if questions.len() == 1 {
            ask(connector, &question);
        }
        drop(questions);
        Self {
            connector: connector.clone(),
            question,
        }
    }
}

impl Future for Asking {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = self.question.answer.borrow_mut().take();
        if let Some(answer) = answer {
            return Poll::Ready(answer);
        }
        self.question.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut questions = self.connector.questions().0.borrow_mut();
        questions.retain(|question| !Rc::ptr_eq(question, &self.question));
        let next = questions.front().filter(|next| !next.asked.get()).cloned();
        drop(questions);
        if let Some(next) = next {
            ask(&self.connector, &next);
        }
    }
}

/// Emits the signal from a source: its handler may run a main loop, in which
/// the caller that waits for the answer continues.
fn ask(connector: &Connector, question: &Rc<Question>) {
    let (connector, waiting) = (connector.downgrade(), Rc::downgrade(question));
    question.home.idle(glib::Priority::DEFAULT, move || {
        let Some(connector) = connector.upgrade() else {
            return;
        };
        let Some(question) = waiting.upgrade() else {
            return;
        };
        if question.asked.replace(true) {
            return;
        }
        if has_handler(&connector) {
            connector.emit_by_name::<()>(NEED_PASSWORD, &[&question.retry]);
        } else {
            question.answer(None);
        }
    });
}

fn has_handler(connector: &Connector) -> bool {
    let signal = SignalId::lookup(NEED_PASSWORD, connector.type_());
    signal.is_some_and(|signal| {
        glib::signal::signal_has_handler_pending(connector, signal, None, false)
    })
}
