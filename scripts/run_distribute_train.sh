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
    echo "  --stop-timeout SECONDS kill what has not ended so long after a signal (default: 600)"
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
check_count "$num"
is_recipe "$config" || fail "CONFIG is '$config', allowed: a YAML file, or the name of a recipe that ships"

launch=(--ranks "$num") train=(--config "$config" --device "$device") overrides=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --run-dir | --nodes | --node-rank | --master | --rank-table | --stop-timeout)
            [ "$#" -ge 2 ] || fail "$1 has no value" ;;&
        --run-dir) train+=("$1" "$2"); shift 2 ;;
        --run-dir=*) train+=("$1"); shift ;;
        --nodes | --node-rank | --master | --rank-table | --stop-timeout) launch+=("$1" "$2"); shift 2 ;;
        --nodes=* | --node-rank=* | --master=* | --rank-table=* | --stop-timeout=*) launch+=("$1"); shift ;;
        *) overrides+=("$1"); shift ;;
    esac
done

use_package
exec python -m ddpm_ms launch "${launch[@]}" train "${train[@]}" "${overrides[@]+"${overrides[@]}"}"
