#!/usr/bin/env bash
# Run the native CPU operators under the address and undefined-behaviour sanitizers.
set -euo pipefail

case "${1:-}" in -h | --help) echo "usage: bash scripts/sanitize_native.sh   (needs g++)"; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package ""
command -v g++ >/dev/null || { echo "g++ not found: apt-get install g++" >&2; exit 2; }
onednn="$(python -c 'import importlib.util, pathlib
package = importlib.util.find_spec("mindspore").submodule_search_locations[0]
print(next(pathlib.Path(package, "lib").glob("libdnnl.so.3*")))')"
made="$(mktemp -d)"
trap 'rm -rf "$made"' EXIT
native="$root/ddpm_ms/native"
g++ -std=c++17 -g -O1 -pthread -fsanitize=address,undefined -fno-sanitize-recover=all -DDDPM_MS_SANITIZE -I"$native" \
    "$root/tests/native/sanitize.cpp" "$native"/*.cpp "$onednn" \
    "-Wl,-rpath,$(dirname "$onednn")" -o "$made/sanitize"
# What oneDNN and this code keep until the process ends is no leak.
ASAN_OPTIONS=detect_leaks=0 "$made/sanitize"
