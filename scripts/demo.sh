# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# The demo: a real QEMU, driven through the library. `./dev` reads this.

demo() {
    setup
    say "Building the demo ..."
    timeout 1200 cargo build -q --example demo || die "the demo did not build: see above"

    dir=$(mktemp -d)
    qemu_pid=
    trap end_demo EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    say "Starting a virtual machine with a QMP monitor on a SPICE port ..."
    qemu-system-x86_64 -machine pc -display none -nodefaults -S -m 64 \
        -spice "unix=on,addr=$dir/spice.sock,disable-ticketing=on" \
        -chardev spiceport,id=q,name=org.qemu.monitor.qmp.0 -mon chardev=q,mode=control \
        -qmp "unix:$dir/qmp.sock,server=on,wait=off" \
        </dev/null >"$dir/log" 2>&1 &
    qemu_pid=$!
    wait_until 20 test -S "$dir/spice.sock" || {
        cat "$dir/log" >&2
        die "QEMU did not open its SPICE socket (its messages are above). Run ./dev setup, then try again"
    }

    say "Running the demo on it ..."
    timeout 60 cargo run -q --example demo -- "spice+unix://$dir/spice.sock" </dev/null || {
        cat "$dir/log" >&2
        die "the demo failed: see above (QEMU's messages come last)"
    }

    wait_until 10 gone "$qemu_pid" || die "the demo is over, but QEMU still runs. examples/demo.rs must send quit"
    wait "$qemu_pid" || die "QEMU did not end in an orderly way (exit code $?): $(cat "$dir/log")"
    qemu_pid=
    say "The virtual machine has ended, as the demo asked."
}

end_demo() {
    if [ -n "$qemu_pid" ]; then
        kill -KILL "$qemu_pid" 2>/dev/null || true
        wait "$qemu_pid" 2>/dev/null || true
    fi
    rm -rf "$dir"
}

# Waits up to $1 seconds for the command after it to succeed.
wait_until() {
    tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        # Returns early if QEMU has ended.
        if gone "$qemu_pid"; then
            "$@"
            return
        fi
        sleep 0.1
    done
}

# Whether the process has ended: it does not exist, or waits for this shell to reap it.
gone() {
    case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) in
        '' | Z*) return 0 ;;
        *) return 1 ;;
    esac
}
