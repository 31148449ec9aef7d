# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# Finds undefined behaviour with the address sanitizer and Miri. `./dev` reads this.

# Invalid accesses and leaks on the heap, including the library's: `./dev test` has the
# sanitizer for C programs only, and valgrind for all.
sanitize() {
    setup
    host=$(rustc -vV | sed -n 's/^host: //p')
    set -- "$(rustc --print sysroot)/lib/rustlib/$host/lib"/librustc-*_rt.asan.a
    [ -e "$1" ] ||
        die "this Rust has no address sanitizer for $host. Use rustup's, on Linux: rustup toolchain install stable"

    # A stable compiler accepts the flag only in this way. With a target given, it does not
    # apply to build scripts and macros, which cannot be linked with it.
    RUSTC_BOOTSTRAP=1
    RUSTFLAGS=-Zsanitizer=address
    CARGO_BUILD_TARGET=$host
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize
    export RUSTC_BOOTSTRAP RUSTFLAGS CARGO_BUILD_TARGET CARGO_TARGET_DIR
    cargo test --test fault_matrix every_case_ends_as_documented -- --exact
    SPICE_QMP_TEST_MATRIX_ALL=1 cargo test --test fault_matrix -- --exact \
        every_case_ends_as_documented_on_dbus every_case_ends_as_documented_with_descriptors
    cargo test -p spice-qmp-c --test matrix every_case_with_address_sanitizer -- --exact
    say "The sanitizer found nothing."
}

# Undefined behaviour in the protocol's code and in the crates that it uses.
miri() {
    need_rust
    if ! cargo +nightly miri --version >/dev/null 2>&1 ||
        ! [ -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; then
        die "Miri is not there. Run: rustup toolchain install nightly --component miri,rust-src"
    fi

    # The transcripts are read from files, and a failing test should leave none.
    MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}"
    PROPTEST_DISABLE_FAILURE_PERSISTENCE=true
    export MIRIFLAGS PROPTEST_DISABLE_FAILURE_PERSISTENCE
    miri_test --lib --test qmp_commands_2012 --test qmp_transcripts
    # The aliasing check would make each access to a long buffer slow in proportion to its length.
    MIRIFLAGS="$MIRIFLAGS -Zmiri-disable-stacked-borrows"
    miri_test --test qmp_limits
    say "Miri found nothing. It did not run: tests/qmp_*properties.rs (it makes inputs too slowly),"
    say "all that calls GLib (see ./dev sanitize, and valgrind in ./dev test)."
}

miri_test() {
    cargo +nightly miri test -p spice-qmp --no-default-features "$@"
}
