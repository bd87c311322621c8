#!/usr/bin/env bash
# Train one recipe on several devices, of one node or of several, through MindSpore's msrun.
set -euo pipefail

usage() {
    echo "usage: bash scripts/run_distribute_train.sh DEVICE NUM_DEVICES CONFIG [section.key=value ...] [options]"
    echo "DEVICE is auto, Ascend, GPU or CPU; NUM_DEVICES is per node. The same command again resumes, on any number of devices."
    echo "  --run-dir DIR          the run (default: runs/NAME_OF_CONFIG); logs of all ranks go to DIR/logs"
    echo "  --nodes N              number of nodes; start the same command on each of them, with"
    echo "  --node-rank K          its number, 0 to N-1, and"
    echo "  --master HOST:PORT     the address of node 0 (default on one node: a free port)"
    echo "  --rank-table FILE      for clusters that still use one"
    echo "Ctrl-C or SIGTERM: every rank finishes its step, rank 0 saves, status 0. A second one kills. If a rank fails, the others are"
    echo "ended and the status is its."
    echo "Environment: ASCEND_RT_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS, PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
[ "$#" -ge 3 ] || { usage >&2; exit 2; }
device="$1" num="$2" config="$3"
shift 3
is_device "$device" || fail "DEVICE is '$device', allowed: auto, Ascend, GPU, CPU"
check_count "$device" "$num"
[ -f "$config" ] || fail "CONFIG is '$config', allowed: a YAML file"

run_dir="runs/$(basename "${config%.*}")"
arguments=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --run-dir | --nodes | --node-rank | --master | --rank-table)
            [ "$#" -ge 2 ] || fail "$1 has no value" ;;&
        --run-dir) run_dir="$2"; shift 2 ;;
        --run-dir=*) run_dir="${1#*=}"; shift ;;
        --nodes) NODES="$2"; shift 2 ;;
        --node-rank) NODE_RANK="$2"; shift 2 ;;
        --master) MASTER="$2"; shift 2 ;;
        --rank-table) RANK_TABLE="$2"; shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done
[[ "$NODES" =~ ^[1-9][0-9]*$ ]] || fail "--nodes is '$NODES', allowed: a number from 1"
[[ "$NODE_RANK" =~ ^[0-9]+$ ]] && [ "$NODE_RANK" -lt "$NODES" ] || fail "--node-rank is '$NODE_RANK', allowed: 0 to $((NODES - 1))"
[ "$NODES" -eq 1 ] || [[ "$MASTER" =~ ^.+:[0-9]+$ ]] || fail "--master is '$MASTER', allowed with several nodes: HOST:PORT"
[ -z "$RANK_TABLE" ] || [ -f "$RANK_TABLE" ] || fail "--rank-table is '$RANK_TABLE', allowed: a file"

use_package
# Once, before NUM_DEVICES of them: the recipe is sound, and the device computes.
python -m ddpm_ms train --config "$config" --device "$device" "${arguments[@]+"${arguments[@]}"}" --dry-run >/dev/null
launch_ranks "$device" "$num" "$run_dir/logs" train --config "$config" --device "$device" --run-dir "$run_dir" \
    "${arguments[@]+"${arguments[@]}"}"
