#!/usr/bin/env bash
# Draw images from a trained run, on one device or on several.
set -euo pipefail

usage() {
    echo "usage: bash scripts/run_sample.sh [DEVICE [NUM_DEVICES]] CHECKPOINT [options of ddpm-ms sample]"
    echo "DEVICE is auto (the default), Ascend, GPU or CPU; CHECKPOINT a run directory or one of its checkpoints."
    echo "With NUM_DEVICES the images are shared among the devices; they are the same images. Logs go to CHECKPOINT/sample_logs."
    echo "Environment: DEVICE_ID, ASCEND_RT_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES, PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
run_on_checkpoint sample "$@"
