// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads lines from a person at a terminal, or from a script.
//!
//! Reading blocks, so it has its own thread, which does not know QEMU: it reads a
//! line when asked for one, and lets the main loop find completions.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::{Completer, Pair};
use rustyline::config::{BellStyle, CompletionType};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, ExternalPrinter};

use super::complete::Completion;
use super::history::{History, Memory, memory_of};

/// What the thread reports.
pub(crate) enum Message {
    Line(String),
    /// The end of this line is to be completed.
    Complete(String, SyncSender<Completion>),
    /// Ctrl+C.
    Interrupted,
    End,
    Failed(io::Error),
}

/// The main loop's end of the reading thread.
pub(crate) struct Prompt {
    turns: Sender<()>,
    pub(crate) messages: UnboundedReceiver<Message>,
    terminal: Option<Terminal>,
}

/// A terminal on which lines are edited.
struct Terminal {
    /// Its modes before.
    modes: Option<Termios>,
    printer: Option<Printer>,
    /// Whether a line is being edited.
    editing: Cell<bool>,
    /// How many lines were asked for.
    asked: Cell<u32>,
    progress: Arc<Progress>,
    dropped: Cell<u64>,
}

/// The progress of the reading thread.
#[derive(Default)]
struct Progress {
    /// The number of the last requested line that it has begun to edit.
    begun: AtomicU32,
    /// Whether it controls the terminal: its modes, its contents, and SIGINT.
    has_terminal: AtomicBool,
    /// How many times it has shown the line.
    shown: AtomicU32,
}

/// Shows texts above the line that is being edited.
type Printer = SyncSender<Text>;

enum Text {
    Line(String),
    /// All earlier texts have been shown.
    Flush(SyncSender<()>),
}

/// How many texts wait for a terminal that accepts none.
const TEXTS: usize = 1024;

/// How long to wait for the thread, which only needs to be scheduled by the system.
const HASTE: Duration = Duration::from_secs(1);

/// How long a person waits for completions.
const PATIENCE: Duration = Duration::from_secs(3);

impl Prompt {
    /// Lines are edited on a terminal, and otherwise read unchanged.
    pub(crate) fn start() -> io::Result<Self> {
        let (turns, asked) = mpsc::channel();
        let (sender, messages) = unbounded();
        let terminal = if is_on_terminal() {
            let modes = tcgetattr(io::stdin()).ok();
            let progress = Arc::<Progress>::default();
            let helper = Helper {
                messages: sender,
                turn: Cell::new(0),
                progress: progress.clone(),
            };
            let (slot, printer) = mpsc::sync_channel(1);
            thread::Builder::new()
                .name("prompt".into())
                .spawn(move || edit_lines(&asked, helper, &slot))?;
            Some(Terminal {
                modes,
                // Without a printer, texts are written at once.
                printer: printer.recv().ok().flatten(),
                editing: Cell::new(false),
                asked: Cell::new(0),
                progress,
                dropped: Cell::new(0),
            })
        } else {
            thread::Builder::new()
                .name("script".into())
                .spawn(move || read_lines(&asked, &sender))?;
            None
        };
        Ok(Self {
            turns,
            messages,
            terminal,
        })
    }

    /// Whether a person types the lines.
    pub(crate) fn is_interactive(&self) -> bool {
        self.terminal.is_some()
    }

    /// Asks for a line.
    pub(crate) fn ask(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.editing.set(true);
            terminal.asked.set(terminal.asked.get() + 1);
        }
        // If the thread has ended, it has reported that.
        let _ = self.turns.send(());
    }

    /// A line has been received.
    pub(crate) fn answered(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.editing.set(false);
        }
    }

    /// No line is awaited any more.
    pub(crate) fn leave(&mut self) {
        self.terminal = None;
    }

    /// Shows a line above the one that is being edited; false where none is.
    pub(crate) fn show(&self, line: &str) -> bool {
        let Some(terminal) = self.terminal.as_ref().filter(|it| it.editing.get()) else {
            return false;
        };
        let Some(printer) = &terminal.printer else {
            return false;
        };
        if printer.try_send(Text::Line(line.to_owned())).is_err() {
            terminal.dropped.set(terminal.dropped.get() + 1);
        }
        true
    }

    /// How many lines could not be shown since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        let terminal = self.terminal.as_ref();
        terminal.map_or(0, |terminal| terminal.dropped.take())
    }
}

/// Whether a person types, and not a script.
pub(crate) fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Drop for Terminal {
    /// The thread may still be editing a line that is no longer awaited. All events
    /// are shown before the tool prints anything else.
    fn drop(&mut self) {
        let progress = &self.progress;
        if self.editing.get() {
            wait(|| progress.begun.load(Ordering::Acquire) >= self.asked.get());
            if let Some(printer) = &self.printer {
                let (shown, all) = mpsc::sync_channel(1);
                if printer.try_send(Text::Flush(shown)).is_ok() {
                    let _ = all.recv_timeout(HASTE);
                }
            }
        }
        if progress.has_terminal.load(Ordering::Acquire) {
            // Like Ctrl+C, it ends the line.
            let _ = kill_process(getpid(), Signal::INT);
            wait(|| !progress.has_terminal.load(Ordering::Acquire));
        }
        if let Some(modes) = &self.modes {
            // The terminal may be gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
        }
    }
}

/// Waits briefly until a condition holds.
fn wait(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + HASTE;
    while !is_so() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The slot for the printer of texts, which the thread creates.
type Slot = SyncSender<Option<Printer>>;

/// Reads lines of a script, one per turn.
fn read_lines(turns: &Receiver<()>, messages: &UnboundedSender<Message>) {
    let mut lines = io::stdin().lock().lines();
    while turns.recv().is_ok() {
        let message = match lines.next() {
            Some(Ok(line)) => Message::Line(line),
            Some(Err(error)) => Message::Failed(error),
            None => Message::End,
        };
        if messages.unbounded_send(message).is_err() {
            return;
        }
    }
}

/// Lets a person edit lines, one per turn.
fn edit_lines(turns: &Receiver<()>, helper: Helper, slot: &Slot) {
    let (messages, progress) = (helper.messages.clone(), helper.progress.clone());
    let history = History::of_user();
    let mut editor = match editor(helper, &history) {
        Ok(editor) => editor,
        Err(error) => {
            let _ = messages.unbounded_send(Message::Failed(io::Error::other(error)));
            return;
        }
    };
    let printer = editor.create_external_printer().ok();
    let printer = printer.map(|it| print_in_thread(it, progress.clone()));
    let _ = slot.send(printer);
    for turn in 1.. {
        if turns.recv().is_err() {
            return;
        }
        if let Some(helper) = editor.helper() {
            helper.turn.set(turn);
        }
        let line = editor.readline(PROMPT);
        progress.has_terminal.store(false, Ordering::Release);
        progress.begun.store(turn, Ordering::Release);
        let message = match line {
            Ok(line) => {
                let memory = memory_of(&line);
                if memory != Memory::Nothing {
                    let _ = editor.add_history_entry(&line);
                }
                if memory == Memory::Always {
                    history.append(&line);
                }
                Message::Line(line)
            }
            Err(ReadlineError::Interrupted) => Message::Interrupted,
            Err(ReadlineError::Eof) => Message::End,
            Err(error) => Message::Failed(io::Error::other(error)),
        };
        if messages.unbounded_send(message).is_err() {
            return;
        }
    }
}

const PROMPT: &str = "(qmp) ";

fn editor(helper: Helper, history: &History) -> rustyline::Result<Editor<Helper, MemHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .bell_style(BellStyle::None)
        // Pasted lines are executed one by one, as in a script.
        .bracketed_paste(false)
        .build();
    let lines = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, lines)?;
    editor.set_helper(Some(helper));
    for line in history.load() {
        editor.add_history_entry(line)?;
    }
    Ok(editor)
}

/// The printer blocks while a line is accepted, so it has its own thread, too.
fn print_in_thread(
    mut printer: impl ExternalPrinter + Send + 'static,
    progress: Arc<Progress>,
) -> Printer {
    let (sender, texts) = mpsc::sync_channel(TEXTS);
    thread::spawn(move || {
        for text in texts {
            match text {
                Text::Line(line) => {
                    let before = progress.shown.load(Ordering::Acquire);
                    if printer.print(line).is_err() {
                        return;
                    }
                    // The edited line is shown again after the text.
                    wait(|| {
                        progress.shown.load(Ordering::Acquire) != before
                            || !progress.has_terminal.load(Ordering::Acquire)
                    });
                }
                Text::Flush(shown) => drop(shown.try_send(())),
            }
        }
    });
    sender
}

/// Asks the main loop for completions.
struct Helper {
    messages: UnboundedSender<Message>,
    /// The line that is being edited.
    turn: Cell<u32>,
    progress: Arc<Progress>,
}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (reply, answer) = mpsc::sync_channel(1);
        let line = line[..position].to_owned();
        let _ = self.messages.unbounded_send(Message::Complete(line, reply));
        let Completion {
            start, candidates, ..
        } = answer.recv_timeout(PATIENCE).unwrap_or_default();
        let pair = |replacement: String| Pair {
            display: replacement.trim_end().to_owned(),
            replacement,
        };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

impl rustyline::Helper for Helper {}

impl Highlighter for Helper {
    /// Called whenever the line is shown.
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        self.progress.shown.fetch_add(1, Ordering::AcqRel);
        Cow::Borrowed(prompt)
    }
}

impl Validator for Helper {}

impl Hinter for Helper {
    type Hint = String;

    /// Called for each line, once the terminal is set up for it.
    fn hint(&self, _: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.progress.has_terminal.store(true, Ordering::Release);
        self.progress
            .begun
            .store(self.turn.get(), Ordering::Release);
        None
    }
}
