#!/usr/bin/env bash
# Distil the digits recipe down to one step, and compare teacher and students: the table of docs/distillation.md.
set -euo pipefail

usage() {
    echo "usage: bash scripts/distill_digits.sh [section.key=value ...]"
    echo "Installs into .venv, trains configs/digits.yaml into runs/digits (or takes what the quickstart left there), distils it into"
    echo "runs/digits_distilled, prints a table and writes runs/digits_distilled/comparison.png. Run it again to resume."
    echo "Environment: RUN_DIR (default runs/digits), PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[digits,evaluate]"
cd "$root"

teacher="${RUN_DIR:-runs/digits}"
ddpm-ms train --config configs/digits.yaml --run-dir "$teacher"
ddpm-ms distill --teacher "$teacher" --steps 64 --to 1 --run-dir "${teacher}_distilled" --device CPU \
    training.train_num_steps=100 training.num_samples=0 "$@"
python -u scripts/distill_digits_table.py "$teacher" "${teacher}_distilled"
