//! What of GLib's log reaches the terminal, and what it says that errors do not.

use std::sync::{Mutex, PoisonError};

use glib::{LogField, LogLevel, LogWriterOutput};

/// The last warnings of spice-gtk. Why a TLS connection fails, only they say.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// As many of them as belong to one connection.
const KEPT: usize = 16;

/// Leaves out spice-gtk's own warnings and criticals: they say in other words what the error
/// says. `G_MESSAGES_DEBUG` brings them back.
pub(crate) fn quieten() {
    let all = std::env::var_os("G_MESSAGES_DEBUG").is_some();
    glib::log_set_writer_func(move |level, fields| {
        let of_spice = matches!(field(fields, "GLIB_DOMAIN"), Some("GSpice" | "Spice"));
        if matches!(level, LogLevel::Warning | LogLevel::Critical) && of_spice {
            keep(field(fields, "MESSAGE").unwrap_or_default());
            if !all {
                return LogWriterOutput::Handled;
            }
        }
        glib::log_writer_default(level, fields)
    });
}

/// spice-gtk's warnings so far, the last one last.
pub(crate) fn warnings() -> Vec<String> {
    WARNINGS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn keep(message: &str) {
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if warnings.len() == KEPT {
        warnings.remove(0);
    }
    warnings.push(message.to_owned());
}

fn field<'a>(fields: &'a [LogField<'a>], key: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|field| field.key() == key)
        .and_then(LogField::value_str)
}
