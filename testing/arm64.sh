#!/usr/bin/env bash
# Builds the program for 64-bit ARM (a Raspberry Pi) and tries it under qemu-user.
#   testing/arm64.sh [CARGO ARGS]    e.g. --release
# Rust comes from rustup where that can fetch the target; else Debian's own compiler for ARM is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
folder=target/arm64

cargo=(cargo)
if rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup target add "$target" 2>/dev/null; then
  testing/setup.sh arm64
else
  dpkg --print-foreign-architectures | grep -qx arm64 || {
    echo "arm64.sh: rustup can't fetch $target; adding Debian's packages for arm64"
    ((EUID == 0)) && dpkg --add-architecture arm64 || sudo dpkg --add-architecture arm64
  }
  testing/setup.sh arm64-debian
  export RUSTC=/usr/bin/rustc
  cargo=(/usr/bin/cargo)
fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
"${cargo[@]}" build --target "$target" --target-dir "$folder" --package warren "$@"

profile=debug
[[ " $* " == *" --release "* ]] && profile=release
warren="$folder/$target/$profile/warren"
# Where Debian's packages for arm64 are installed too, there are two C libraries, and the loader of one
# with the other hangs: both come from the cross compiler's folder.
cross=/usr/aarch64-linux-gnu
arm=(qemu-aarch64 -E "LD_LIBRARY_PATH=$cross/lib" -L "$cross" "$warren")
run() { "${arm[@]}" "$@"; }

fail() { echo "arm64.sh: $*" >&2; exit 1; }
[[ "$(run --version)" == warren* ]] || fail "'warren --version' doesn't answer"

# A broker that starts, makes its database and certificate, and answers over TLS.
data="$(mktemp -d)"
log="$data/log"
"${arm[@]}" serve --data "$data/broker" --listen 127.0.0.1:0 \
  --stun 127.0.0.1:0 --no-relay >"$log" 2>&1 &
broker=$!
trap 'kill "$broker" 2>/dev/null; wait "$broker" 2>/dev/null || true; rm -rf "$data"' EXIT
port=""
for _ in {1..600}; do
  port="$(grep -ao 'https://127.0.0.1:[0-9]*' "$log" | head -1 | grep -o '[0-9]*$' || true)"
  [[ "$port" ]] && break
  kill -0 "$broker" 2>/dev/null || break
  sleep 0.2
done
[[ "$port" ]] || { cat "$log" >&2; fail "the broker didn't start"; }
answer="$(curl --silent --insecure --location --max-time 60 "https://127.0.0.1:$port/" || true)"
[[ "$answer" == *Warren* ]] || fail "the portal doesn't answer: ${answer:0:200}"
run admin --data "$data/broker" accounts list >/dev/null || fail "'warren admin' doesn't reach the broker"
echo "arm64.sh: $warren runs ($(du -h "$warren" | cut -f1))"
