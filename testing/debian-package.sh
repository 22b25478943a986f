#!/usr/bin/env bash
# Unpacks Debian packages into the user's cache, installing nothing, and prints the folder.
#   testing/debian-package.sh own faketime libfaketime   from this machine's own suite
#   testing/debian-package.sh sid wireguard-go           from sid; from this machine's own where that isn't Debian
set -euo pipefail
suite="$1"; shift
folder="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/warren-lab/$suite-$1"
if [[ ! -e "$folder" ]]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work"/{lists/partial,cache/archives/partial,empty,x}
  : >"$work/status"
  options=(-q -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o APT::Sandbox::User=root)
  if [[ "$suite" == sid ]]; then
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    # The machine's own mirror, whether listed the old way or the new.
    sed -n "s#^deb \(\[[^]]*\] \)\?\(http[^ ]*/debian\) .*#deb [signed-by=$keyring] \2 sid main#p
      s#^URIs: \(http[^ ]*/debian\)/\?\$#deb [signed-by=$keyring] \1 sid main#p" \
      /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1 >"$work/sources.list" || true
    if [[ -s "$work/sources.list" && -e "$keyring" ]]; then
      options+=(-o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/empty"
        -o "Dir::Etc::preferencesparts=$work/empty" -o "Dir::State::status=$work/status")
    else
      echo "debian-package.sh: no Debian mirror is configured here: taking $* of this machine's own suite" >&2
    fi
  fi
  if ! { apt-get "${options[@]}" update && cd "$work" && apt-get "${options[@]}" download "$@"; } >"$work/log" 2>&1; then
    echo "debian-package.sh: cannot fetch $* ($suite): $(tail -1 "$work/log")" >&2
    exit 1
  fi
  for package in "$work"/*.deb; do dpkg -x "$package" "$work/x"; done
  mkdir -p "$(dirname "$folder")"
  # Two at once: the first one wins, both are content.
  mv -T "$work/x" "$folder" 2>/dev/null || [[ -e "$folder" ]]
fi
echo "$folder"
