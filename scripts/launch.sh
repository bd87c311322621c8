# shellcheck shell=bash
# Sourced by the run_*.sh scripts: reads a device and a number of devices, and calls `ddpm-ms`, for several `ddpm-ms launch`.
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

# The active Python if it has the package (a cluster's own environment), else .venv.
use_package() {
    if ! python -c 'import importlib.metadata as m; m.version("ddpm_ms"), m.version("mindspore")' >/dev/null 2>&1; then
        install_package "[digits,evaluate]"
    fi
}

is_device() {
    case "$1" in auto | Ascend | GPU | CPU) return 0 ;; *) return 1 ;; esac
}

# is_recipe CONFIG: a file, or the name of one that ships.
is_recipe() {
    [ -f "$1" ] || [ -n "$(find "$root/configs" -name "$1.yaml" -print -quit)" ]
}

check_count() {
    [[ "$1" =~ ^[1-9][0-9]*$ ]] || fail "NUM_DEVICES is '$1', allowed: a number from 1"
}

# run_on_checkpoint COMMAND [DEVICE [NUM]] CHECKPOINT OPTIONS...: sample or evaluate, on one device or several.
run_on_checkpoint() {
    local command="$1" device=auto num=1
    shift
    if is_device "${1:-}"; then
        device="$1"
        shift
        if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
            num="$1"
            shift
        fi
    fi
    local checkpoint="${1:-}"
    [ -n "$checkpoint" ] || { usage >&2; exit 2; }
    [ -d "$checkpoint" ] || fail "CHECKPOINT is '$checkpoint', allowed: a run directory or one of its checkpoints"
    shift
    check_count "$num"
    use_package
    local -a launch=()
    [ "$num" -eq 1 ] || launch=(launch --ranks "$num")
    exec python -m ddpm_ms "${launch[@]+"${launch[@]}"}" "$command" --checkpoint "$checkpoint" --device "$device" "$@"
}
