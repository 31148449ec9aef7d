# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# QEMU 10.0 beside an older one of the system. `./dev` reads this.

# Debian 12 has QEMU 7.2, and QEMU 10.0 in its backports suite. They cannot both be
# installed, so 10.0 is unpacked into the cache folder. The machine's
# own apt configuration is not changed.
qemu10() {
    major=$(qemu_major)
    [ "$major" -lt 10 ] || return 0
    qemu10_root=${XDG_CACHE_HOME:-${HOME:?is not set: set it to your home folder}/.cache}/spice-qmp/qemu-10
    qemu10_runs "$qemu10_root" && return 0
    if [ "$(os_release)" != "debian bookworm" ]; then
        say "QEMU 10 is not available on this system (only Debian 12 backports are used): tests run on the system's QEMU alone."
        return 0
    fi

    say "Fetching QEMU 10.0 from Debian backports ..."
    rm -rf "$qemu10_root"
    mkdir -p "${qemu10_root%/*}"
    work=$(mktemp -d "$qemu10_root.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    fetch_backports
    mkdir "$work/root"
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$work/root"
    done
    qemu10_runs "$work/root" ||
        die "the QEMU 10.0 from backports does not run here. Install the libraries that QEMU needs (./dev setup), or leave it out: SPICE_QMP_TEST_QEMU=system ./dev test"
    mv -T "$work/root" "$qemu10_root" || qemu10_runs "$qemu10_root" ||
        die "$qemu10_root is in the way. Remove it, then run ./dev qemu10"

    rm -rf "$work"
    trap - EXIT INT TERM
}

qemu_major() {
    number=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p')
    [ -n "$number" ] || die "no qemu-system-x86_64 found. Run ./dev setup"
    printf '%s\n' "$number"
}

os_release() {
    # shellcheck source=/dev/null
    (. /etc/os-release && printf '%s %s\n' "${ID:-}" "${VERSION_CODENAME:-}") 2>/dev/null || true
}

# Whether the QEMU unpacked in $1 starts, and is a version 10.
qemu10_runs() {
    for core in "$1"/usr/lib/*/qemu/ui-spice-core.so; do
        QEMU_MODULE_DIR="${core%/*}" "$1/usr/bin/qemu-system-x86_64" --version 2>/dev/null |
            grep -q '^QEMU emulator version 10\.' && return 0
    done
    return 1
}

# Downloads the packages into $work/debs, from the first of the machine's own
# archives that has them.
fetch_backports() {
    mkdir -p "$work/debs" "$work/lists/partial" "$work/cache/archives/partial"
    cat >"$work/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
END
    archives=$(debian_archives)
    if [ -z "$archives" ]; then
        # apt reads its archives only after an update: use a private state for that.
        apt-get -q -c "$work/apt.conf" update >"$work/log" 2>&1 || cat "$work/log" >&2
        archives=$(debian_archives -c "$work/apt.conf")
    fi

    cat >>"$work/apt.conf" <<END
Dir::Etc::sourcelist "$work/backports.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
END
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    options=
    [ ! -r "$keyring" ] || options="[signed-by=$keyring] "
    for uri in $archives; do
        printf 'deb %s%s bookworm-backports main\n' "$options" "$uri" >"$work/backports.list"
        if download >"$work/log" 2>&1; then
            return 0
        fi
        cat "$work/log" >&2
    done
    die "no archive in this machine's apt sources gave QEMU 10.0 from bookworm-backports. Check the network and the sources, or leave it out: SPICE_QMP_TEST_QEMU=system ./dev test"
}

# Prints the address of each archive that could be Debian's, from the apt
# sources in either of their two formats. The arguments go to apt-get.
debian_archives() {
    # shellcheck disable=SC2016  # apt fills these in, not the shell
    apt-get "$@" indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' |
        awk '$1 ~ /^(bookworm|stable|oldstable)$/ && $2 == "main" && !seen[$3]++ { print $3 }'
}

download() (
    suite=bookworm-backports
    cd "$work/debs" &&
        apt-get -q -c "$work/apt.conf" update &&
        apt-get -q -c "$work/apt.conf" download \
            "qemu-system-x86/$suite" "qemu-system-common/$suite" "qemu-system-data/$suite" \
            "qemu-system-modules-spice/$suite" "qemu-system-modules-opengl/$suite" "seabios/$suite"
)
