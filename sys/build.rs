//! Gives the shared library its name.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(spice_gtk_declares)");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libspice-qmp-1.so.0");
    // GTypes stay registered for ever, so their code must stay loaded.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
