# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# All tests, except those that take long. `./dev` reads this.

# The first one with asyncio; 3.51 and newer do not build on Debian 12.
pygobject="PyGObject==3.50.0"
# QEMU's own client, for the tests of a monitor that is shared.
qmp_shell="qemu.qmp==0.0.6"

run_tests() {
    started=$(date +%s)
    setup
    if [ "${SPICE_QMP_TEST_QEMU:-}" != system ]; then
        qemu10
        if [ "$major" -lt 10 ] && ! qemu10_runs "$qemu10_root"; then
            SPICE_QMP_TEST_QEMU=system
            export SPICE_QMP_TEST_QEMU
        fi
    fi

    test_programs
    # Its bundled libusb conflicts with spice-gtk's own: the other tests run without it.
    cargo test --features spice-client-glib --test spice_client_glib
    # Another crate of a program may enable this: numbers in GVariants and JsonNodes must not change.
    cargo test --lib --features serde_json/arbitrary_precision -- variant json_glib
    test_without_spice
    replay_corpora
    test_meson
    test_meson_without_spice
    cargo check -p spice-qmp --no-default-features
    tree_lacks 'glib|gio|gobject|gtk' "without default features" -p spice-qmp --no-default-features
    tree_lacks 'rusb|libusb' "with default features" --workspace
    say "All tests passed in $(($(date +%s) - started)) s."
}

# Two at a time: most of them wait for QEMU, or for time to pass. The output of the second
# lane is shown when both are done.
test_programs() {
    cargo_test="cargo test --workspace --features cli,qapi"
    $cargo_test --no-run
    second_lane=$(mktemp)
    # Ctrl+C reaches it, too.
    env --default-signal=INT $cargo_test --no-fail-fast --test '[!a-e]*' >"$second_lane" 2>&1 </dev/null &
    lane=$!
    $cargo_test --no-fail-fast --lib --bins --test '[a-e]*' || failed="this lane"
    wait "$lane" || failed="${failed:+$failed, }the second lane"
    cat "$second_lane"
    rm -f "$second_lane"
    [ -z "${failed:-}" ] || die "tests failed in $failed: see above"
    $cargo_test --doc
}

# The parts that exist without SPICE: the rest is the same code.
test_without_spice() {
    cargo test -p spice-qmp --no-default-features --features gobject,cli \
        --lib --bins --test without_spice --test connect_socket --test qemu_dbus
    tree_lacks 'spice-client|rusb' "without the feature spice" \
        -p spice-qmp --no-default-features --features gobject,cli,qapi
    tree_lacks 'spice-client|rusb' "without the feature spice" -p spice-qmp-c --no-default-features
}

# Inputs that fuzzing found before, and the tests of the checks.
replay_corpora() {
    say "Replaying the fuzz corpora ..."
    fuzz_cargo test -q
}

# Runs cargo on the fuzz crate, without the parts that need a fuzzer. Its dependencies are
# built for the other tests, too.
fuzz_cargo() {
    command=$1
    shift
    cargo "$command" --manifest-path tests/fuzz/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" \
        --no-default-features "$@"
}

# Builds and installs the C library with meson, with all options.
test_meson() {
    build_meson
    meson test -C "$build" --print-errorlogs </dev/null
    test_await
    test_installed
}

# Tests Python's `await`, which Debian 12's PyGObject does not have.
test_await() {
    if [ "${SPICE_QMP_TEST_PYTHON:-}" = system ]; then
        say "SPICE_QMP_TEST_PYTHON is system: the tests of Python's await are left out."
        return
    fi
    venv=${CARGO_TARGET_DIR:-target}/python
    if ! "$venv/bin/python3" -c 'import gi, sys; sys.exit(gi.__version__ != sys.argv[1])' "${pygobject#*==}" 2>/dev/null; then
        say "Installing $pygobject for the tests ..."
        rm -rf "$venv"
        if ! (quietly /usr/bin/python3 -m venv "$venv" && quietly "$venv/bin/pip" install "$pygobject"); then
            rm -rf "$venv"
            die "Python's await cannot be tested without $pygobject. Fix the problem above, so that this works: /usr/bin/python3 -m venv $venv && $venv/bin/pip install $pygobject; or leave these tests out: SPICE_QMP_TEST_PYTHON=system ./dev test"
        fi
    fi
    venv=$(cd "$venv" && pwd)
    say "Testing Python's await ..."
    for script in test_await.py test_port.py; do
        meson devenv -C "$build" "$PWD/tests/bindings/with-qemu" "$venv/bin/python3" "$PWD/tests/bindings/$script" </dev/null
    done
    # The programs in the documents.
    meson devenv -C "$build" "$PWD/tests/bindings/with-qemu" "$venv/bin/python3" \
        "$PWD/tests/bindings/test_documents.py" "$PWD" "$(cd "$build" && pwd)" </dev/null
    test_share
}

# Several clients on one monitor, QEMU's own qmp-shell among them.
test_share() {
    if [ ! -x "$venv/bin/qmp-shell" ]; then
        say "Installing $qmp_shell for the tests ..."
        quietly "$venv/bin/pip" install "$qmp_shell" ||
            die "A shared monitor cannot be tested without $qmp_shell. Fix the problem above, so that this works: $venv/bin/pip install $qmp_shell; or leave these tests out: SPICE_QMP_TEST_PYTHON=system ./dev test"
    fi
    say "Testing a shared monitor with qmp-shell ..."
    "$PWD/tests/bindings/with-qemu" "$venv/bin/python3" "$PWD/tests/bindings/test_share.py" \
        "$(cd "$build" && pwd)/src/bin/spice-qmp" </dev/null
}

build_meson() {
    build=${CARGO_TARGET_DIR:-target}/meson
    say "Building the C library with meson ..."
    quietly meson setup "$build" --buildtype=debug --werror -Dauto_features=enabled
    quietly meson compile -C "$build"
}

# The C library without SPICE: nothing that is installed names spice-gtk.
test_meson_without_spice() {
    build=${CARGO_TARGET_DIR:-target}/meson-without-spice
    say "Building the C library without SPICE ..."
    quietly meson setup "$build" --buildtype=debug --werror -Dauto_features=enabled -Dspice=disabled
    quietly meson compile -C "$build"
    meson test -C "$build" --print-errorlogs </dev/null
    install_tree

    grep -qx spice=no "$pc" || die "spice-qmp-1.0.pc does not say spice=no"
    # Names under SPICE_QMP_HAS_SPICE are allowed in the header; the guides
    # are for all builds.
    if found=$(grep -rlE 'spice-client|Spice(ClientGLib|PortChannel|Session)' --exclude=spice-qmp.h \
        --exclude=getting-started.html --exclude=overview.html --exclude=porting.html "$tree"); then
        die "a library without SPICE names spice-gtk in: $found"
    fi
    libraries=$(ldd "$installed/libspice-qmp-1.so.0")
    case $libraries in
        *spice*) die "a library without SPICE links: $libraries" ;;
    esac
    listed=$(sed '/^#/,$d' sys/symbols.txt)
    exported=$(nm -D --defined-only "$installed/libspice-qmp-1.so.0" | awk '{ print $3 }' | LC_ALL=C sort)
    [ "$listed" = "$exported" ] ||
        die "a library without SPICE exports other symbols than the first part of sys/symbols.txt: $exported"
    remove_tree
}

# Checks whether the installed tree has everything that a C program needs.
test_installed() {
    install_tree
    grep -qx spice=yes "$pc" || die "spice-qmp-1.0.pc does not say spice=yes"
    compile_installed "$tree/viewer" examples/viewer.c spice-qmp-1.0 spice-client-gtk-3.0
    remove_tree
}

# Installs the build into a folder of its own, which programs in C and Python use.
install_tree() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    quietly meson install -C "$build" --quiet --destdir "$tree"
    pc=$(find "$tree" -name spice-qmp-1.0.pc)
    cat >"$tree/program.c" <<'END'
#include <spice-qmp/spice-qmp.h>

int
main(void)
{
    return spice_qmp_port_is_qmp_name("org.qemu.monitor.qmp.0") ? 0 : 1;
}
END
    compile_installed "$tree/program" "$tree/program.c" spice-qmp-1.0
    installed=$(PKG_CONFIG_PATH=${pc%/*} pkg-config --variable=libdir spice-qmp-1.0)
    LD_LIBRARY_PATH=$installed "$tree/program" || die "a program does not run with the installed library"
    prefix=${installed%/lib*}
    "$prefix/bin/spice-qmp" --version >/dev/null || die "the installed tool does not run"
    for file in man/man1/spice-qmp.1 man/man1/spice-qmp-exec.1 bash-completion/completions/spice-qmp \
        zsh/site-functions/_spice-qmp fish/vendor_completions.d/spice-qmp.fish; do
        [ -s "$prefix/share/$file" ] || die "$file is not installed with the tool"
    done
    # Not another Python in PATH: it would not have GObject.
    GI_TYPELIB_PATH=$installed/girepository-1.0 LD_LIBRARY_PATH=$installed /usr/bin/python3 -c \
        'import gi; gi.require_version("SpiceQmp", "1.0"); from gi.repository import SpiceQmp; SpiceQmp.Port' ||
        die "Python does not find the installed library"
    override=$(find "$tree" -path '*/gi/overrides/SpiceQmp.py')
    PYTHONPATH=${override%/gi/overrides/*} GI_TYPELIB_PATH=$installed/girepository-1.0 LD_LIBRARY_PATH=$installed /usr/bin/python3 -c \
        'import gi; gi.require_version("SpiceQmp", "1.0"); from gi.repository import SpiceQmp; SpiceQmp.Port.execute' ||
        die "Python does not find the installed override"
    override=$(find "$tree" -path '*/gjs-1.0/overrides/SpiceQmp.js')
    XDG_DATA_DIRS=${override%/gjs-1.0/*}:/usr/share GI_TYPELIB_PATH=$installed/girepository-1.0 LD_LIBRARY_PATH=$installed gjs -c \
        'imports.gi.versions.SpiceQmp = "1.0"; if (!imports.gi.SpiceQmp.Port._original_open_async) throw new Error("no promises")' ||
        die "GJS does not find the installed override"
}

remove_tree() {
    rm -rf "$tree"
    trap - EXIT INT TERM
}

# Compiles $1 from the source $2 with the packages after them, and nothing else.
compile_installed() {
    program=$1
    source=$2
    shift 2
    flags=$(PKG_CONFIG_PATH=${pc%/*} pkg-config --cflags --libs "$@")
    # shellcheck disable=SC2086  # a list of words
    cc -o "$program" "$source" $flags || die "$source does not compile with the installed library: see above"
}

# Shows the output of a command only when it fails.
quietly() {
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        die "$1 $2 failed (its output is above)"
    fi
    rm -f "$log"
}

# Fails if the dependency tree contains a crate whose name matches $1.
tree_lacks() {
    pattern=$1
    where=$2
    shift 2
    tree=$(cargo tree -q -e normal --prefix none "$@") || die "cargo tree failed: see above"
    if found=$(printf '%s\n' "$tree" | grep -E "^($pattern)"); then
        die "unwanted dependency $where, make it optional in Cargo.toml: $found"
    fi
}
