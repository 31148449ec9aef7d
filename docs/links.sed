# SPDX-License-Identifier: MIT OR Apache-2.0
# Turns the GTK-Doc references of the GIR's comments into links of gi-docgen's.
s/#SpiceQmpError\b/[error@Error]/g
s/#SpiceQmp([A-Z][A-Za-z]*)::([a-z-]+)/[signal@\1::\2]/g
s/#SpiceQmp([A-Z][A-Za-z]*):([a-z-]+)/[property@\1:\2]/g
s/#SpiceQmp([A-Z][A-Za-z]*)/[type@\1]/g
s/#G(ActionGroup|AsyncResult|Cancellable|DBusConnection|ListModel|SocketClient|SocketConnection)\b/[type@Gio.\1]/g
s/\b(spice_qmp_[a-z_]+)\(\)/[id@\1]/g
# Each `_async` function names its `_finish`.
/c:identifier="spice_qmp_[a-z_]+_async"/{
  h
  s/.*c:identifier="(spice_qmp_[a-z_]+)_async".*/\1/
  x
}
/<\/doc>/{
  x
  /./{
    G
    s/^([a-z_]+)\n(.*)<\/doc>/\2\n\n[id@\1_finish] returns the result, and its page lists the errors.<\/doc>/
    x
    s/.*//
    x
    b
  }
  x
}
