# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# Fuzzing. `./dev` reads this.

fuzz_targets="session server decode capi"

# Fuzzes the targets, all at once, for $1 seconds. New inputs go
# into a corpus below the target folder, and failing ones beside it.
fuzz() {
    seconds=${1:-}
    case $seconds in
        # For libFuzzer, 0 means for ever.
        '' | 0* | *[!0-9]*) die "usage: ./dev fuzz SECONDS" ;;
    esac
    setup
    cargo fuzz --version >/dev/null 2>&1 ||
        die "cargo-fuzz is not there. Run: cargo install --locked cargo-fuzz"
    # AddressSanitizer needs the nightly compiler. The stable one has it, too.
    RUSTC_BOOTSTRAP=1
    export RUSTC_BOOTSTRAP
    # cargo-fuzz requires the absolute path.
    target=${CARGO_TARGET_DIR:-target}
    case $target in
        /*) ;;
        *) target=$PWD/$target ;;
    esac
    target=$target/fuzz
    say "Building the fuzz targets ..."
    for name in $fuzz_targets; do
        quietly cargo fuzz build --fuzz-dir tests/fuzz --sanitizer "$(sanitizer "$name")" \
            --target-dir "$target/$(sanitizer "$name")" "$name"
    done

    host=$(rustc -vV | sed -n 's/^host: //p')
    pids=
    trap end_fuzz EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    say "Fuzzing $fuzz_targets for $seconds s. Their output: $target/TARGET.log"
    for name in $fuzz_targets; do
        mkdir -p "$target/corpus/$name" "$target/findings"
        # New inputs go to the first folder; a timeout on a slow machine is not a finding.
        "$target/$(sanitizer "$name")/$host/release/$name" \
            -max_total_time="$seconds" -max_len=2000 -timeout=60 -rss_limit_mb=4096 \
            -print_final_stats=1 -artifact_prefix="$target/findings/$name-" \
            "$target/corpus/$name" "tests/fuzz/corpus/$name" >"$target/$name.log" 2>&1 </dev/null &
        pids="$pids $!"
    done
    failed=
    for name in $fuzz_targets; do
        # shellcheck disable=SC2086  # a list of words
        set -- $pids
        pids=${pids# "$1"}
        wait "$1" || failed="$failed $name"
        tell_fuzz "$name"
    done
    trap - EXIT INT TERM
    for name in $failed; do
        grep -hE 'panicked at|ERROR:|SUMMARY:|Test unit written' "$target/$name.log" >&2 || true
    done
    [ -z "$failed" ] ||
        die "findings of$failed (above, and in $target/findings). Fix the bug, and copy the input to tests/fuzz/regressions"
    say "No findings."
}

# Only C's callers can corrupt memory: the other targets run five times as fast without it.
sanitizer() {
    case $1 in
        capi) echo address ;;
        *) echo none ;;
    esac
}

# Prints what a target did: executions, minutes, and the size of its corpus.
tell_fuzz() {
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$target/$1.log")
    files=$(find "$target/corpus/$1" -type f | wc -l)
    committed=$(find "tests/fuzz/corpus/$1" -type f | wc -l)
    minutes=$(awk "BEGIN { printf \"%.1f\", $seconds / 60 }")
    say "$1: ${executions:-?} executions in $minutes minutes, corpus of $committed inputs and $files new ones"
}

end_fuzz() {
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
    done
}
