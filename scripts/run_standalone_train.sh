#!/usr/bin/env bash
# Train one recipe in one process.
set -euo pipefail

usage() {
    echo "usage: bash scripts/run_standalone_train.sh [DEVICE] CONFIG [section.key=value ...] [--run-dir DIR]"
    echo "DEVICE is auto (the default), Ascend, GPU or CPU. The same command again resumes."
    echo "Environment: DEVICE_ID chooses the card; ASCEND_RT_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES; PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
device=auto
if is_device "${1:-}"; then
    device="$1"
    shift
fi
config="${1:-}"
[ -n "$config" ] || { usage >&2; exit 2; }
is_recipe "$config" || fail "CONFIG is '$config', allowed: a YAML file, or the name of a recipe that ships (or, before it, a device:" \
    "auto, Ascend, GPU, CPU)"
shift
use_package
exec python -m ddpm_ms train --config "$config" --device "$device" "$@"
