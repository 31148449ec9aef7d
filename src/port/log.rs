//! The traffic log: GLib's debug messages of the domain `SpiceQmp`.

use std::cell::RefCell;

use once_cell::sync::Lazy;

use crate::qmp::redacted_payload;

/// What is to be logged. It is kept until nothing is borrowed: a program's log
/// handler may use the port.
#[derive(Debug, Default)]
pub(super) struct Traffic(RefCell<Vec<String>>);

/// Whether the environment asks for debug messages (`G_MESSAGES_DEBUG`): the
/// texts are made only then.
static WANTED: Lazy<bool> = Lazy::new(|| {
    std::env::var("G_MESSAGES_DEBUG").is_ok_and(|domains| {
        domains
            .split([' ', ',', ':'])
            .any(|domain| domain == "all" || domain == "SpiceQmp")
    })
});

/// How much of a payload is logged, in bytes.
const LENGTH: usize = 1000;

impl Traffic {
    /// Keeps what `text` returns, if anyone reads it.
    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        if *WANTED {
            self.0.borrow_mut().push(text());
        }
    }

    /// Logs what was kept.
    pub(super) fn write(&self) {
        if *WANTED {
            for text in self.0.take() {
                glib::g_debug!("SpiceQmp", "{text}");
            }
        }
    }
}

/// What the server sent, without secrets, and cut short.
pub(super) fn payload(json: &str) -> String {
    let text = redacted_payload(json);
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{} ... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
