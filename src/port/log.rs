//! The traffic log: GLib's debug messages of the domain `SpiceQmp`.

use once_cell::sync::Lazy;

/// Whether the environment asks for debug messages (`G_MESSAGES_DEBUG`): the
/// texts are made only then.
static WANTED: Lazy<bool> = Lazy::new(|| {
    std::env::var("G_MESSAGES_DEBUG").is_ok_and(|domains| {
        domains
            .split([' ', ',', ':'])
            .any(|domain| domain == "all" || domain == "SpiceQmp")
    })
});

/// Logs what `text` returns, if anyone reads it.
pub(super) fn debug(text: impl FnOnce() -> String) {
    if *WANTED {
        glib::g_debug!("SpiceQmp", "{}", text());
    }
}
