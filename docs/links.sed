# Turns the GTK-Doc references of the GIR's comments into links of gi-docgen's.
s/#SpiceQmp(Port)::([a-z-]+)/[signal@\1::\2]/g
s/#SpiceQmp(Port):([a-z-]+)/[property@\1:\2]/g
s/#SpiceQmpPort(State|VmAction)\b/[enum@Port\1]/g
s/#SpiceQmpCallFlags\b/[flags@CallFlags]/g
s/#SpiceQmpPort\b/[class@Port]/g
s/#SpiceQmp(Event|Status)\b/[struct@\1]/g
s/#SpiceQmpError\b/[error@Error]/g
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
