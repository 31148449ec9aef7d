# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# Static checks. `./dev` reads this.

lint() {
    setup
    for tool in fmt clippy; do
        cargo "$tool" --version >/dev/null 2>&1 ||
            die "cargo $tool is not there. Run: rustup component add rustfmt clippy"
    done

    cargo fmt --all --check || die "the format is off. Run: cargo fmt --all"
    cargo fmt --all --check --manifest-path tests/fuzz/Cargo.toml ||
        die "the format is off. Run: cargo fmt --all --manifest-path tests/fuzz/Cargo.toml"
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    cargo clippy -p spice-qmp --no-default-features -- -D warnings
    cargo clippy -p spice-qmp --no-default-features --features gobject,cli --all-targets -- -D warnings
    cargo clippy -p spice-qmp-c --no-default-features -- -D warnings
    fuzz_cargo clippy -q -p spice-qmp-fuzz --all-targets -- -D warnings
    # The benchmark is not part of the workspace.
    cargo fmt --manifest-path benches/Cargo.toml --check ||
        die "the benchmark's format is off. Run: cargo fmt --manifest-path benches/Cargo.toml"
    cargo clippy --manifest-path benches/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --all-features
    doc_as_docs_rs
    # The published crate builds by itself.
    quietly cargo package -p spice-qmp --allow-dirty
    scripts/check-links || die "links are dead: see above"
    scripts/check-licences || die "files do not say their licence: see above"
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny --workspace --all-features check bans licenses sources
        if cargo deny fetch db >/dev/null 2>&1; then
            cargo deny --workspace --all-features check --disable-fetch advisories
        else
            say "The advisory database cannot be fetched from GitHub: advisories are left out."
        fi
    else
        say "cargo-deny is not installed: licences and advisories are left out (cargo install --locked cargo-deny)."
    fi
    if command -v shellcheck >/dev/null; then
        # It follows dev into scripts/.
        shellcheck -x dev .ci/run sys/build-library scripts/use-packages scripts/vendor
    else
        say "shellcheck is not installed: the scripts are left out (apt-get install shellcheck)."
    fi
    say "Lint found nothing."
}

# With all features, and without any library to link with.
doc_as_docs_rs() {
    DOCS_RS=1 PKG_CONFIG=false RUSTC_BOOTSTRAP=1 RUSTDOCFLAGS="--cfg docsrs -D warnings" \
        cargo doc -q --no-deps --features cli,qapi --target-dir "${CARGO_TARGET_DIR:-target}/docs.rs"
}
