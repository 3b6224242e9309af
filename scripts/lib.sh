# shellcheck shell=bash
# Sourced by the other scripts in this directory; for Debian machines, as root.

# The directory of the workspace.
# shellcheck disable=SC2034
workspace=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# die MESSAGE: print it and end the script.
die() {
    echo "${0##*/}: $1" >&2
    exit 1
}

# require_root: end the script if it is not run by root.
require_root() {
    [ "$(id -u)" = 0 ] || die "run it as root"
}

# require_packages PACKAGE...: install those of these Debian packages that are missing.
require_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}" >&2
    local log
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
        --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        die "cannot install ${missing[*]} (log: $log)"
    fi
    rm -f "$log"
}

# require_cargo: install what Rust links with, and find cargo; say how to get it if it is missing.
require_cargo() {
    require_packages gcc libc6-dev
    command -v cargo >/dev/null && return
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || die "cargo is missing: https://rustup.rs installs it"
}

# require_lab: install what the test hosts and the images of the examples are made with.
require_lab() {
    require_root
    require_packages ca-certificates debian-archive-keyring e2fsprogs iproute2 mmdebstrap mount
}
