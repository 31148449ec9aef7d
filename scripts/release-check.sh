# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
# Builds and uses a release as its users would. `./dev` reads this.
# Leaves nothing behind: it runs in a temporary folder.

release_check() {
    started=$(date +%s)
    setup
    [ "$(id -u)" -eq 0 ] || die "run this as root: it makes two Debian 13 to build and to install in"
    missing=$(absent "debootstrap debian-archive-keyring xz-utils")
    [ -z "$missing" ] || (install_missing)
    [ -z "$(git status --porcelain)" ] || die "there are changes that are not committed: meson dist leaves them out"
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
    check_versions
    scripts/crate-copyright || die "packaging/debian/copyright is not true: see above"

    release=$(mktemp -d)
    trap 'rm -rf "$release"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    step "the crate"
    quietly cargo package -p spice-qmp
    step "its documents, as docs.rs makes them"
    doc_as_docs_rs
    check_tarball
    step "a build of it outside of its folder, offline"
    # It has a trap of its own.
    (check_build)
    check_subproject
    make_debian
    check_debian_packages
    check_installed_packages
    check_other_packages
    step
    rm -rf "$release"
    trap - EXIT INT TERM
    say "The release is good, in $(($(date +%s) - started)) s."
}

# Says what comes now, and how long what came before took.
step() {
    now=$(date +%s)
    [ -z "${step_started:-}" ] || say "  ... passed in $((now - step_started)) s"
    step_started=$now
    [ $# -eq 0 ] || say "Checking $* ..."
}

# All packages are of the version in Cargo.toml.
check_versions() {
    for file in debian/changelog:"($version-" fedora/spice-qmp.spec:" $version" \
        flatpak/spice-qmp.json:"-$version.tar" spice-qmp.wrap:"-$version.tar"; do
        grep -qF -- "${file#*:}" "packaging/${file%%:*}" ||
            die "packaging/${file%%:*} is of another version than Cargo.toml, which has $version"
    done
}

# --- the tarball, on this machine --------------------------------------------

check_tarball() {
    step "the tarball"
    quietly meson setup "$release/dist" -Dtests=disabled
    quietly meson dist -C "$release/dist" --no-tests
    tarball=$release/dist/meson-dist/spice-qmp-$version.tar.xz
    tar -xf "$tarball" -C "$release"
    sources=$release/spice-qmp-$version
    [ -d "$sources/vendor" ] || die "the tarball lacks the crates"
}

# Runs a command without a network, and with no crates but those of the tarball.
offline() {
    rm -rf "$release/cargo"
    CARGO_HOME=$release/cargo unshare --net "$@"
}

# With SPICE and without.
check_build() {
    build=$release/build
    quietly offline meson setup "$build" "$sources" --buildtype=debug \
        -Dauto_features=enabled -Dtests=disabled
    for spice in enabled disabled; do
        quietly meson configure "$build" -Dspice=$spice
        quietly offline meson compile -C "$build"
        install_tree
        for file in "$installed/libspice-qmp-1.so.0" "${installed%/lib/*}/bin/spice-qmp"; do
            if grep -qF -e "$release" -e "${HOME:-/root}/" "$file"; then
                die "${file##*/} names folders of this machine"
            fi
        done
        remove_tree
    done
    rm -rf "$build"
}

check_subproject() {
    step "a meson project that has it as a subproject, by the wrap"
    project=$release/project
    mkdir -p "$project/subprojects/packagefiles"
    cp packaging/spice-qmp.wrap "$project/subprojects/"
    ln "$tarball" "$project/subprojects/packagefiles/"
    printed_program c >"$project/pause.c"
    cat >"$project/meson.build" <<'END_MESON'
project('pause', 'c')
executable('pause', 'pause.c', dependencies: dependency('spice-qmp-1.0'))
END_MESON
    quietly offline meson setup "$project/build" "$project" --wrap-mode=forcefallback
    quietly offline meson compile -C "$project/build"
    answer=$("$project/build/pause" unix:/nowhere 2>&1)
    case $answer in
        *"No such file or directory"*) ;;
        *) die "the program of the project does not run: $answer" ;;
    esac
    rm -rf "$project"
}

# The program in the language $1 that README.md prints.
printed_program() {
    awk -v fence="\`\`\`$1" '$0 == fence { on = 1; next } /^```/ { on = 0 } on' README.md
}

# --- Debian 13 -----------------------------------------------------------------

# From the archive that this Debian uses for its own packages; elsewhere from Debian's.
make_debian() {
    step "the archive of Debian 13: two of it are made"
    # shellcheck disable=SC2016  # apt's
    archive=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' \
        "Codename: $(os_release | cut -d' ' -f2)" | head -n 1)
    clean=$release/clean
    debian=$release/debian
    quietly debootstrap --variant=minbase trixie "$clean" ${archive:+"$archive"}
    # They do not have to outlive a loss of power.
    echo force-unsafe-io >"$clean/etc/dpkg/dpkg.cfg.d/unsafe-io"
    apt_inside "$clean" update
    cp -a "$clean" "$debian"
}

# Installs packages into the Debian in the folder $1.
apt_inside() {
    root=$1
    shift
    quietly chroot "$root" env -u TMPDIR DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        apt-get -q -y --no-install-recommends "$@"
}

# Runs a command in the Debian in the folder $1, without a network. It uses this machine's
# Rust; the mounts end with the command.
inside() {
    # shellcheck disable=SC2016  # of the inner shell
    unshare --mount --net sh -euc '
        rust=$1 root=$2
        shift 2
        mkdir -p "$root/opt/rust"
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        mount --bind -o ro "$rust" "$root/opt/rust"
        exec env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin:/opt/rust/bin \
            chroot "$root" "$@"
    ' sh "$(rustc --print sysroot)" "$@"
}

check_debian_packages() {
    step "the Debian packages: what builds them is installed"
    # Debian 13 has no Rust 1.92.
    needed=$(sed -n '/^Build-Depends:/,/^[^ ]/s/^ \([^ ,(:]*\).*/\1/p' packaging/debian/control |
        grep -vE '^(cargo|rustc)$')
    # shellcheck disable=SC2086  # a list of words
    apt_inside "$debian" install build-essential debhelper fakeroot lintian reuse rpm rpmlint $needed
    mkdir "$debian/build"
    cp "$tarball" "$debian/build/spice-qmp_$version.orig.tar.xz"
    tar -xf "$tarball" -C "$debian/build"
    cp -a packaging/debian "$debian/build/spice-qmp-$version/"
    step "the Debian packages: they are built, offline"
    # Nobody gets these: they may be large.
    quietly inside "$debian" sh -c "cd /build/spice-qmp-$version &&
        DPKG_DEB_COMPRESSOR_LEVEL=0 exec dpkg-buildpackage -d -us -uc"
    step "the Debian packages: lintian"
    inside "$debian" sh -c 'exec lintian --allow-root --fail-on error /build/*.changes' ||
        die "lintian finds errors: see above"
}

# Another Debian, with only the packages and what is needed to build and run the programs
# in README.md.
check_installed_packages() {
    step "the packages in a clean Debian 13"
    mkdir "$clean/packages"
    for package in "$debian"/build/*.deb; do
        case $package in
            *-dbgsym_*) ;;
            *) cp "$package" "$clean/packages/" ;;
        esac
    done
    apt_inside "$clean" install gcc libc6-dev pkgconf python3-gi gjs valac man-db \
        qemu-system-x86 qemu-system-modules-spice
    # apt takes a package for a file if its name contains a slash.
    # shellcheck disable=SC2046  # a list of words
    apt_inside "$clean" install $(cd "$clean" && printf '/%s ' packages/*.deb)
    for language in c python js vala; do
        printed_program $language >"$clean/root/pause.$language"
    done
    cp scripts/use-packages "$clean/root/"
    inside "$clean" /root/use-packages "$version"
}

check_other_packages() {
    step "the spec of Fedora (rpmlint), the module of Flatpak (JSON), all licences (REUSE)"
    mkdir "$debian/check"
    git archive HEAD | tar -x -C "$debian/check"
    mkdir "$debian/check/LICENSES"
    mv "$debian/check/LICENSE-MIT" "$debian/check/LICENSES/MIT.txt"
    mv "$debian/check/LICENSE-APACHE" "$debian/check/LICENSES/Apache-2.0.txt"
    quietly inside "$debian" rpmlint -r /check/packaging/fedora/spice-qmp.rpmlintrc \
        /check/packaging/fedora/spice-qmp.spec
    python3 -c 'import json, sys; json.load(open(sys.argv[1]))["sources"]' packaging/flatpak/spice-qmp.json ||
        die "packaging/flatpak/spice-qmp.json cannot be read: see above"
    quietly inside "$debian" reuse --root /check lint
}
