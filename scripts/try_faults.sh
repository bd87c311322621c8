#!/usr/bin/env bash
# Kill, stop, starve and damage runs on purpose, and write what became of them to docs/faults.md. Takes some 20 minutes.
set -euo pipefail

case "${1:-}" in -h | --help) echo "usage: bash scripts/try_faults.sh   (needs unshare, to mount a small tmpfs as a user)"; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[dev]"
cd "$root"
python -m tests.system.faults docs/faults.md
