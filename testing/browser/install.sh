#!/usr/bin/env bash
# Puts the Node packages of package-lock.json into the user's cache, where they aren't yet, and prints their folder.
set -euo pipefail
cd "$(dirname "$0")"
version="$(cat package.json package-lock.json | sha256sum | head -c 16)"
folder="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/warren-lab/node-$version"
if [[ ! -e "$folder" ]]; then
  mkdir -p "$(dirname "$folder")"
  work="$(mktemp -d "$folder.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  cp package.json package-lock.json "$work"
  if ! npm ci --prefix "$work" --ignore-scripts --no-audit --no-fund >"$work/log" 2>&1; then
    echo "install.sh: npm can't fetch the browser's driver: $(tail -1 "$work/log")" >&2
    exit 1
  fi
  # Two at once: the first one wins, both are content.
  mv -T "$work" "$folder" 2>/dev/null || [[ -e "$folder" ]]
fi
echo "$folder"
