// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filters GLib's log for the terminal, and keeps warnings with details that errors lack.

use std::sync::{Mutex, PoisonError};

use glib::{LogField, LogLevel, LogWriterOutput, gstr};

use crate::style::escaped;

/// The last warnings of spice-gtk. Only they say why a TLS connection fails.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// As many warnings as belong to one connection.
const KEPT: usize = 16;

/// Suppresses the warnings of spice-gtk, which repeat the error in other
/// words, unless `G_MESSAGES_DEBUG` is set. Other messages are written so that no
/// text of a server acts on the terminal.
pub(crate) fn take_over() {
    let all = std::env::var_os("G_MESSAGES_DEBUG").is_some();
    glib::log_set_writer_func(move |level, fields| {
        let noise = matches!(level, LogLevel::Warning | LogLevel::Critical);
        let domain = bytes(fields, "GLIB_DOMAIN");
        if noise && matches!(domain, Some(b"GSpice" | b"Spice")) {
            let message = bytes(fields, "MESSAGE").unwrap_or_default();
            keep(String::from_utf8_lossy(message).into_owned());
            if !all {
                return LogWriterOutput::Handled;
            }
        }
        let message = bytes(fields, "MESSAGE").unwrap_or_default();
        let message = escaped(&String::from_utf8_lossy(message));
        let mut safe = vec![LogField::new(gstr!("MESSAGE"), message.as_bytes())];
        for key in [gstr!("GLIB_DOMAIN"), gstr!("PRIORITY")] {
            if let Some(value) = bytes(fields, key) {
                safe.push(LogField::new(key, value));
            }
        }
        glib::log_writer_default(level, &safe)
    });
}

/// The warnings of spice-gtk so far, the latest one last.
pub(crate) fn warnings() -> Vec<String> {
    let warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    warnings.clone()
}

fn keep(message: String) {
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if warnings.len() == KEPT {
        warnings.remove(0);
    }
    warnings.push(message);
}

fn bytes<'a>(fields: &'a [LogField<'a>], key: &str) -> Option<&'a [u8]> {
    let field = fields.iter().find(|field| field.key() == key)?;
    field.value_bytes()
}
