// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `shell`: executes the commands of a person or a script, on one connection.

mod complete;
mod history;
mod ids;
mod prompt;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anstyle::Style;
use futures_core::Stream;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use spice_qmp::{Error, Event, EventStream, QmpPort};

use super::exec::explain;
use super::schema::{print_commands, print_description};
use super::{drives, hmp, jobs, machine};
use crate::connect::Target;
use crate::ending::{End, is_over};
use crate::failure::{Failure, Kind, Stop, note, note_line};
use crate::feed::Feed;
use crate::json_text::compact;
use crate::monitor::Monitor;
use crate::output::Output;
use crate::schema::Schema;
use crate::style::{Line, print_error_line, shows_colors};
use crate::wait::until;
use crate::words::{self, Entry};
use complete::{Completion, complete, fitting};
use prompt::{Message, Prompt};

/// Executes lines until they end, or the connection does.
pub(crate) async fn run(target: &Target, output: &mut Output) -> Result<(), Stop> {
    if target.reconnects && !prompt::is_on_terminal() {
        return Err(Failure::usage(
            "--reconnect is for a terminal: what a script has still to do is for the machine \
             that it began with",
        )
        .into());
    }
    target
        .on_port(async |monitor, port| {
            let prompt = Prompt::start()
                .map_err(|error| Failure::new(Kind::Output, format!("no thread: {error}")))?;
            let reports = Feed::new();
            let shell = Shell {
                monitor,
                port,
                output,
                end: End::watch_or_report(port, target, {
                    let reports = reports.clone();
                    move |text| reports.push(text.to_owned())
                }),
                reconnects: target.reconnects,
                reports,
                // A script's output is only that of its commands.
                events: prompt.is_interactive().then(|| port.events()),
                prompt,
                schema: None,
            };
            shell.run().await
        })
        .await
}

struct Shell<'a> {
    monitor: &'a Monitor,
    port: &'a QmpPort,
    output: &'a mut Output,
    end: End,
    /// Whether to connect again when the connection ends.
    reconnects: bool,
    /// Messages about lost and new connections.
    reports: Feed<String>,
    /// The events to show, if any.
    events: Option<EventStream>,
    prompt: Prompt,
    schema: Option<Schema>,
}

/// What arrives while the shell waits for a line.
enum News {
    Message(Message),
    Event(Event),
    /// A message about a lost or a new connection.
    Report(String),
    /// The connection has ended for good.
    Lost,
    Signal(i32),
}

/// How the shell continues after a line.
#[derive(PartialEq, Eq)]
enum Next {
    Line,
    Leave,
}

const SIGINT: i32 = 2;

const LEAVING: &str = "Ctrl+D, or Ctrl+C again, leaves the shell";

const LOST_COMMAND: &str = "QEMU may have executed it, or not; it is not sent again";

/// How long to wait for QEMU to exit after `quit`.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long completions may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

impl Shell<'_> {
    async fn run(mut self) -> Result<(), Stop> {
        if self.prompt.is_interactive() {
            let version = self.port.version().unwrap_or_default();
            let text = format!("QEMU {version}. Tab completes, .help explains, Ctrl+D leaves.");
            self.output.line(Line::from(text)).await?;
        }
        while let Some(line) = self.next_line().await? {
            let signals = &self.monitor.signals;
            match signals.or(self.obey(&line)).await {
                Ok(Ok(Next::Line)) => {}
                Ok(Ok(Next::Leave)) => return Ok(()),
                Ok(Err(Stop::Failed(failure))) if self.prompt.is_interactive() => {
                    failure.report(self.output.is_json());
                }
                Ok(Err(stop)) => return Err(stop),
                // It was printing.
                Err(SIGINT) if self.prompt.is_interactive() => self.output.line("").await?,
                Err(signal) => return Err(Stop::Signal(signal)),
            }
        }
        Ok(())
    }

    /// The next line; `None` when the user leaves the shell.
    async fn next_line(&mut self) -> Result<Option<String>, Stop> {
        let mut interrupted = false;
        if self.prompt.is_interactive() && self.is_lost() {
            return self.lost().await;
        }
        self.prompt.ask();
        loop {
            let signals = &self.monitor.signals;
            let news = signals.or(self.news()).await;
            let message = match news.unwrap_or_else(News::Signal) {
                News::Message(message) => message,
                // Ctrl+C before the line could be edited.
                News::Signal(SIGINT) if self.prompt.is_interactive() && !interrupted => {
                    interrupted = true;
                    note(self.output.is_json(), LEAVING);
                    continue;
                }
                News::Signal(signal) => return Err(Stop::Signal(signal)),
                News::Event(event) => {
                    self.show(&event).await?;
                    continue;
                }
                News::Report(text) => {
                    // It may be another QEMU, with another schema.
                    self.schema = None;
                    self.say(&text);
                    continue;
                }
                News::Lost => return self.lost().await,
            };
            if let Message::Complete(line, reply) = message {
                let completion = self.completion(&line).await;
                // The user may have given up meanwhile.
                let _ = reply.try_send(completion);
                continue;
            }
            self.prompt.answered();
            match message {
                Message::Line(line) => return Ok(Some(line)),
                Message::Interrupted if interrupted => return Err(Stop::Signal(SIGINT)),
                Message::Failed(error) => {
                    let text = format!("cannot read the commands: {error}");
                    return Err(Failure::usage(text).into());
                }
                Message::End => return Ok(None),
                Message::Interrupted | Message::Complete(..) => {
                    interrupted = true;
                    note(self.output.is_json(), LEAVING);
                    self.prompt.ask();
                }
            }
        }
    }

    fn is_lost(&self) -> bool {
        has_ended(self.port, self.reconnects)
    }

    /// The connection has ended: shows what arrived before that.
    async fn lost(&mut self) -> Result<Option<String>, Stop> {
        self.prompt.leave();
        while let Some(event) = self.events.as_mut().and_then(next_queued) {
            self.show(&event).await?;
        }
        self.end.result(self.port)?;
        note(self.output.is_json(), "QEMU has ended");
        Ok(None)
    }

    async fn news(&mut self) -> News {
        let Self {
            port,
            end,
            reconnects,
            reports,
            events,
            prompt,
            ..
        } = self;
        // A script that quit QEMU may have more lines, which fail, or be over.
        let waits_for_end = !prompt.is_interactive() && end.was_shut_down();
        let mut report = pin!(reports.next());
        let mut lost = pin!(until(*port, &["notify::state"], |port| {
            has_ended(port, *reconnects)
        }));
        poll_fn(|cx| {
            if let Poll::Ready(message) = Pin::new(&mut prompt.messages).poll_next(cx) {
                return Poll::Ready(News::Message(message.unwrap_or(Message::End)));
            }
            if let Some(events) = events
                && let Poll::Ready(Some(event)) = Pin::new(events).poll_next(cx)
            {
                return Poll::Ready(News::Event(event));
            }
            if let Poll::Ready(text) = report.as_mut().poll(cx) {
                return Poll::Ready(News::Report(text));
            }
            if waits_for_end {
                return Poll::Pending;
            }
            lost.as_mut().poll(cx).map(|()| News::Lost)
        })
        .await
    }

    /// Shows an event: dimmed, between the results of commands.
    async fn show(&mut self, event: &Event) -> Result<(), Stop> {
        let data = event.decode::<&RawValue>().ok().map(RawValue::get);
        let data = data.filter(|data| *data != "null");
        let data = data.map_or(String::new(), |data| format!(" {}", compact(data)));
        let line = Line::default().styled(format!("{}{data}", event.name()), Style::new().dimmed());
        let dropped = self.events.as_ref().map_or(0, EventStream::take_dropped);
        let dropped = dropped + self.prompt.take_dropped();
        if dropped > 0 {
            let lost = format!("{dropped} events were not shown");
            self.print(Line::default().styled(lost, Style::new().dimmed()))
                .await?;
        }
        self.print(line).await
    }

    /// Shows a note, above the line that is being edited.
    fn say(&self, message: &str) {
        let line = note_line(self.output.is_json(), message);
        if !self.prompt.show(&line.render(shows_colors(&io::stderr()))) {
            print_error_line(line);
        }
    }

    async fn print(&mut self, line: Line) -> Result<(), Stop> {
        if self.prompt.show(&line.render(self.output.has_colors())) {
            return Ok(());
        }
        self.output.line(line).await
    }

    async fn obey(&mut self, line: &str) -> Result<Next, Stop> {
        let entry = words::parse(line).map_err(|error| {
            Failure::usage(error).hint(".help in spice-qmp shell explains how to write commands")
        })?;
        if self.reconnects && !self.port.ready() && needs_qemu(&entry) {
            return Err(Failure::connection("there is no connection: nothing was sent").into());
        }
        match entry {
            Entry::Nothing => {}
            Entry::Own(".quit" | ".exit" | ".q", _) => return Ok(Next::Leave),
            Entry::Own(".help", name) if is_own(name) => self.print_help().await?,
            Entry::Own(".help", name) => {
                let schema = self.schema().await?;
                print_description(schema.0, name, schema.1).await?;
            }
            Entry::Own(".commands", word) => {
                let schema = self.schema().await?;
                print_commands(schema.0, word, schema.1).await?;
            }
            Entry::Own(".status", "") => {
                machine::show(self.monitor, self.port, self.output).await?;
            }
            Entry::Own(".drives", "") => {
                drives::show(self.monitor, self.port, self.output).await?;
            }
            Entry::Own(".jobs", "") => jobs::show(self.monitor, self.port, self.output).await?,
            Entry::Own(".events", "on") => {
                let port = self.port;
                self.events.get_or_insert_with(|| port.events());
            }
            Entry::Own(".events", "off") => self.events = None,
            Entry::Own(".events", _) => {
                return Err(Failure::usage(".events is followed by on or off").into());
            }
            Entry::Own(name @ (".status" | ".drives" | ".jobs"), _) => {
                return Err(Failure::usage(format!("nothing may follow {name}")).into());
            }
            Entry::Own(name, _) => {
                let text = format!("the shell has no command {name}");
                return Err(Failure::usage(text).hint(".help lists them").into());
            }
            Entry::Human(text) => self.ask_human_monitor(text).await?,
            Entry::Command(command) => {
                if let Some(reply) = self.execute(&command.name, command.arguments).await? {
                    self.output.json_text(reply.get()).await?;
                }
                if command.name == "quit" {
                    let ended = until(self.port, &["notify::ready"], |port| !port.ready());
                    // If it is still there, it has promised to exit all the same.
                    let _ = glib::future_with_timeout(END_TIMEOUT, ended).await;
                }
            }
        }
        Ok(Next::Line)
    }

    /// Executes a command, and shows events meanwhile. `None` if the user did not want
    /// to wait for the reply.
    async fn execute(
        &mut self,
        command: &str,
        arguments: impl Serialize,
    ) -> Result<Option<Box<RawValue>>, Stop> {
        let monitor = self.monitor;
        let call = monitor.execute(self.port, command, arguments);
        let mut call = pin!(monitor.signals.or(call));
        loop {
            let reply = poll_fn(|cx| {
                if let Some(events) = &mut self.events
                    && let Poll::Ready(Some(event)) = Pin::new(events).poll_next(cx)
                {
                    return Poll::Ready(Err(event));
                }
                call.as_mut().poll(cx).map(Ok)
            });
            match reply.await {
                Err(event) => self.show(&event).await?,
                Ok(Ok(Ok(reply))) => return Ok(Some(reply)),
                Ok(Ok(Err(error))) => {
                    let hint = self.hint(command, &error);
                    let failure = explain(monitor, self.port, error).await;
                    return Err(match hint {
                        Some(hint) => failure.hint(hint).into(),
                        None => failure.into(),
                    });
                }
                Ok(Err(SIGINT)) if self.prompt.is_interactive() => {
                    let text = format!("QEMU is still executing {command}");
                    note(self.output.is_json(), &text);
                    return Ok(None);
                }
                Ok(Err(signal)) => return Err(Stop::Signal(signal)),
            }
        }
    }

    /// A hint for a failed command that is better than the usual one.
    fn hint(&self, command: &str, error: &Error) -> Option<&'static str> {
        match command {
            _ if self.reconnects && matches!(error, Error::Closed(_)) => Some(LOST_COMMAND),
            "help" | "?" => Some(".help explains the shell"),
            "exit" | "q" => Some(".quit leaves the shell"),
            _ => None,
        }
    }

    async fn ask_human_monitor(&mut self, text: &str) -> Result<(), Stop> {
        let arguments = json!({ "command-line": text });
        let Some(reply) = self.execute(hmp::COMMAND, arguments).await? else {
            return Ok(());
        };
        hmp::print(&reply, self.output).await
    }

    /// The schema, which is loaded once, and the output.
    async fn schema(&mut self) -> Result<(&Schema, &mut Output), Stop> {
        let schema = match self.schema.take() {
            Some(schema) => schema,
            None => Schema::load(self.monitor, self.port).await?,
        };
        Ok((self.schema.insert(schema), self.output))
    }

    async fn completion(&mut self, line: &str) -> Completion {
        let work = self.complete(line);
        let done = glib::future_with_timeout(QUESTION_TIMEOUT, work).await;
        // Without QEMU's answer there are no completions.
        done.ok().flatten().unwrap_or_default()
    }

    async fn complete(&mut self, line: &str) -> Option<Completion> {
        let schema = self.schema().await.ok()?.0;
        let mut completion = complete(schema, line);
        if let Some(ids) = completion.ids {
            let (command, arguments) = ids.question();
            let monitor = self.monitor;
            let reply = monitor.execute(self.port, command, arguments).await.ok()?;
            let names = ids.names(reply.get()).into_iter();
            let names = names.map(|name| format!("{name} "));
            let more = fitting(0, &line[completion.start..], names);
            completion.candidates.extend(more.candidates);
        }
        Some(completion)
    }

    async fn print_help(&mut self) -> Result<(), Stop> {
        for line in HELP.lines() {
            self.output.line(line).await?;
        }
        Ok(())
    }
}

/// Whether this is about the shell itself, and not about a QMP command.
fn is_own(name: &str) -> bool {
    name.is_empty() || name.starts_with('.') || name == "hmp"
}

/// Whether an entry needs a connection to QEMU.
fn needs_qemu(entry: &Entry<'_>) -> bool {
    match entry {
        Entry::Own(".help", name) => !is_own(name),
        Entry::Own(name, _) => matches!(*name, ".commands" | ".drives" | ".jobs" | ".status"),
        Entry::Nothing => false,
        Entry::Human(_) | Entry::Command(_) => true,
    }
}

/// Whether the connection has ended, and will not be restored.
fn has_ended(port: &QmpPort, reconnects: bool) -> bool {
    if reconnects {
        is_over(port)
    } else {
        !port.ready()
    }
}

/// An event that has arrived already.
fn next_queued(events: &mut EventStream) -> Option<Event> {
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(events).poll_next(&mut cx) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    }
}

const HELP: &str = "\
COMMAND KEY=VALUE ...   execute a QMP command: device_del id=disk1
COMMAND {JSON}          the same with its arguments in JSON
{\"execute\": ...}        the same in QMP's format
hmp TEXT                execute a command of the human monitor: hmp info block
.help COMMAND           show a command's arguments and return value
.commands [WORD]        list the commands, only those with this in their name
.status                 show whether the machine runs, and why not
.drives                 list the drives, and what is in them
.jobs                   list QEMU's background jobs
.events on|off          show events as they come, or stop showing them
.quit                   leave the shell, like Ctrl+D; quit quits QEMU

A value is JSON if it is valid JSON, and text otherwise. Keys with dots make nested
objects. Quotes are as in a shell. Tab completes commands, arguments, values and ids.
Ctrl+C stops waiting for an answer. Lines with secrets, and lines that begin with a
space, are not saved in the history.";
