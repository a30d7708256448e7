#!/usr/bin/env bash
# Build a CPython without a GIL from Debian's source package, and an environment of it.
#
#   build.sh DIRECTORY    where it all goes: source, installation (python/), environment (venv/)
#
# Debian has no such package. The source is had by apt from a list of its own, so that the system's
# lists stay as they are, and apt verifies it as it does everything. About ten minutes on two cores;
# what is there already is not made again. JOBS=n runs n compilers at once.
set -euo pipefail

SUITE=trixie
PACKAGE=python3.13

say() { echo "free-threaded Python: $*" >&2; }
fail() { say "$*"; exit 1; }

[ $# = 1 ] || fail "say where to build it: $0 DIRECTORY"
mkdir -p "$1"
root=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
python=$root/python/bin/python3.13t

get_source() {
    command -v apt-get >/dev/null || fail "the source comes by apt, which this system has not:" \
        "run this on Debian or one of its kin"
    command -v dpkg-source >/dev/null || fail "dpkg-source is missing: apt-get install dpkg-dev"
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg site
    [ -e "$keyring" ] || fail "$keyring is missing: apt-get install debian-archive-keyring"
    # The mirror that this system uses itself, where it is one of Debian's.
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null \
        | sort -u | grep -E '/debian/?$' | head -n 1 || true)
    [ -n "$site" ] || fail "apt knows no mirror of Debian (and apt-get update must have run once):" \
        "add one to its sources"
    local apt=$root/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/empty"
    : >"$apt/status"
    echo "deb-src [signed-by=$keyring] $site $SUITE main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "$apt/empty";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Sandbox::User "";
CONF
    say "fetching the source of $PACKAGE of Debian $SUITE"
    export APT_CONFIG=$apt/apt.conf
    apt-get update -qq >&2 || fail "apt-get update could not reach the source packages (deb-src) of $SUITE"
    rm -rf "$root/source" && mkdir -p "$root/source"
    (cd "$root/source" && apt-get source -qq --download-only "$PACKAGE" >&2) \
        || fail "apt-get source $PACKAGE failed: see above"
    unset APT_CONFIG
    # Without Debian's patches: environments of a Python so patched look for no packages of their own.
    # (--no-check: apt has verified it.)
    dpkg-source --no-check --skip-patches --extract "$root"/source/*.dsc "$root/source/tree" >/dev/null
}

build() {
    for header in openssl/ssl.h ffi.h zlib.h sqlite3.h; do
        echo "#include <$header>" | cc -E - >/dev/null 2>&1 || fail "$header is missing:" \
            "apt-get install build-essential libssl-dev libffi-dev zlib1g-dev libsqlite3-dev"
    done
    [ -e "$root/source/tree/configure" ] || get_source
    cd "$root/source/tree"
    say "building it (the log is $root/build.log)"
    {
        ./configure --disable-gil --prefix="$root/python" --without-doc-strings \
            --disable-test-modules \
            && make -j"${JOBS:-$(nproc)}" && make install
    } >"$root/build.log" 2>&1 || { tail -n 20 "$root/build.log" >&2; fail "the build failed"; }
    touch "$root/.built"
}

[ -e "$root/.built" ] || build
if [ ! -e "$root/venv/.ready" ] || [ "$project/pyproject.toml" -nt "$root/venv/.ready" ]; then
    say "installing the packages of the dev-freethreaded extra"
    "$python" -m venv --clear "$root/venv"
    # Of hypothesis the newest version that needs no compiler here: later ones are partly in Rust.
    "$root/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --only-binary hypothesis -e "$project[dev-freethreaded]"
    touch "$root/venv/.ready"
fi
# A GIL that an extension has turned on again would make every run prove nothing.
"$root/venv/bin/python" "$here/without_gil.py"
