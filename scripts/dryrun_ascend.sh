#!/usr/bin/env bash
# Compile a recipe for Ascend without a card, in MindSpore's simulation mode; this needs the CANN toolkit.
set -euo pipefail

usage() {
    echo "usage: bash scripts/dryrun_ascend.sh CONFIG [section.key=value ...]"
    echo "Builds and compiles the training step of CONFIG for Ascend as rank 0 of one, and stops. No card is needed, CANN is."
    echo "Environment: MS_SIMULATION_LEVEL (default 1: compile and plan memory; 0: build the graphs only), PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
config="${1:-}"
[ -n "$config" ] || { usage >&2; exit 2; }
[ -f "$config" ] || fail "CONFIG is '$config', allowed: a YAML file"
shift
use_package
if [ -z "${ASCEND_HOME_PATH:-}${ASCEND_TOOLKIT_HOME:-}" ]; then
    fail "no CANN toolkit here (ASCEND_HOME_PATH is not set): install CANN and source its set_env.sh. Nothing was simulated"
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
MS_SIMULATION_LEVEL="${MS_SIMULATION_LEVEL:-1}" RANK_SIZE=1 RANK_ID=0 python -m ddpm_ms train --config "$config" --device Ascend \
    --run-dir "$work/run" "$@" training.train_num_epochs=null training.train_num_steps=1 training.num_samples=0
