//! What of GLib's log reaches the terminal.

use glib::{LogField, LogLevel, LogWriterOutput};

/// Leaves out spice-gtk's own warnings: they say in other words what the error
/// says. `G_MESSAGES_DEBUG` brings them back.
pub(crate) fn quieten() {
    if std::env::var_os("G_MESSAGES_DEBUG").is_some() {
        return;
    }
    glib::log_set_writer_func(|level, fields| {
        if level == LogLevel::Warning && domain(fields) == Some("GSpice") {
            return LogWriterOutput::Handled;
        }
        glib::log_writer_default(level, fields)
    });
}

fn domain<'a>(fields: &'a [LogField<'a>]) -> Option<&'a str> {
    fields
        .iter()
        .find(|field| field.key() == "GLIB_DOMAIN")
        .and_then(LogField::value_str)
}
