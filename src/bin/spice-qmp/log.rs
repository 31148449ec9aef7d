//! What of GLib's log reaches the terminal.

use glib::{LogField, LogLevel, LogWriterOutput, gstr};

use crate::style::escaped;

/// Leaves out the warnings of spice-gtk: they say in other words what the error
/// says. `G_MESSAGES_DEBUG` brings them back. What is left is written so that no
/// text of a server acts on the terminal.
pub(crate) fn take_over() {
    let all = std::env::var_os("G_MESSAGES_DEBUG").is_some();
    glib::log_set_writer_func(move |level, fields| {
        let noise = matches!(level, LogLevel::Warning | LogLevel::Critical);
        if !all && noise && bytes(fields, "GLIB_DOMAIN") == Some(b"GSpice") {
            return LogWriterOutput::Handled;
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

fn bytes<'a>(fields: &'a [LogField<'a>], key: &str) -> Option<&'a [u8]> {
    let field = fields.iter().find(|field| field.key() == key)?;
    field.value_bytes()
}
