#!/usr/bin/env bash
# Install what the tests need, then run ruff, mypy and pytest: the whole set in two processes, or what the arguments tell pytest.
set -euo pipefail

case "${1:-}" in -h | --help) echo "usage: bash scripts/run_tests.sh [pytest arguments; -m slow runs the long tests]"; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[dev]"
cd "$root"
ruff check .
mypy
[ $# -gt 0 ] || set -- -n 2 --dist loadfile  # a file stays in one process: its tests share graphs
python -m pytest "$@"
