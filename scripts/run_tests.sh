#!/usr/bin/env bash
# Install what the tests need, then run ruff, mypy and pytest. Arguments go to pytest (-m slow runs the long tests).
set -euo pipefail

case "${1:-}" in -h | --help) echo "usage: bash scripts/run_tests.sh [pytest arguments]"; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[dev]"
cd "$root"
ruff check .
mypy
python -m pytest "$@"
