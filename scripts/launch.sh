# shellcheck shell=bash
# Sourced by the run_*.sh scripts: starts `ddpm-ms` once, or once per device through MindSpore's msrun.
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

NODES=1 NODE_RANK=0 MASTER="" RANK_TABLE=""  # of launch_ranks; MASTER is HOST:PORT

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

# check_count DEVICE NUM: NUM is a number, and no more than the devices that the environment leaves visible.
check_count() {
    local visible=""
    [[ "$2" =~ ^[1-9][0-9]*$ ]] || fail "NUM_DEVICES is '$2', allowed: a number from 1"
    case "$1" in
        Ascend) visible="${ASCEND_RT_VISIBLE_DEVICES:-}" ;;
        GPU) visible="${CUDA_VISIBLE_DEVICES:-}" ;;
    esac
    if [ -n "$visible" ]; then
        local -a cards
        IFS=, read -ra cards <<<"$visible"
        [ "$2" -le "${#cards[@]}" ] || fail "NUM_DEVICES is $2, allowed with the visible devices $visible: at most ${#cards[@]}"
    fi
}

free_port() {
    python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# try_device DEVICE: fail unless it starts and computes. Once, before there are many.
try_device() {
    python - "$1" <<'EOF'
import sys

from ddpm_ms import runtime
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.errors import InputError

try:
    runtime.setup(RuntimeConfig(device=sys.argv[1]))
except InputError as error:
    print(f"ddpm-ms: {error}", file=sys.stderr)
    sys.exit(2)
EOF
}

# launch_ranks DEVICE NUM LOGS ARGUMENTS...: NUM processes of `python -m ddpm_ms ARGUMENTS` on this node.
# Returns 0, or the status of the first rank that failed.
launch_ranks() {
    local device="$1" num="$2" logs="$3"
    shift 3
    local master="${MASTER:-127.0.0.1:$(free_port)}"
    local -a options=("--worker_num=$((num * NODES))" "--local_worker_num=$num" "--node_rank=$NODE_RANK"
        "--master_addr=${master%:*}" "--master_port=${master##*:}" "--log_dir=$logs" "--join=True")
    [ -z "$RANK_TABLE" ] || options+=("--rank_table_file=$RANK_TABLE")
    if [ "$device" = CPU ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
        local share=$(($(nproc) / num))
        export OMP_NUM_THREADS=$((share > 0 ? share : 1))
    fi
    mkdir -p "$logs"
    rm -f "$logs"/worker_*.log "$logs/scheduler.log"
    # Its own session: Ctrl-C reaches this script alone, which hands it to the workers. msrun itself would kill them.
    setsid msrun "${options[@]}" python -m ddpm_ms "$@" >"$logs/msrun.log" 2>&1 &
    msrun_pid=$! stops=0
    declare -gA rank_of=()
    trap 'stop_ranks' INT TERM
    trap 'kill_ranks' EXIT
    local first="$logs/worker_$((NODE_RANK * num)).log"
    end_scheduler "$logs" &
    tail -n +1 -F --pid="$msrun_pid" "$first" 2>/dev/null | grep --line-buffered -v "^\[INFO\]" &
    remember_ranks "$((NODE_RANK == 0 ? num + 1 : num))"
    [ "$stops" -eq 0 ] || signal_ranks  # a request that came before there was anybody to tell
    local status=0
    wait "$msrun_pid" || status=$?
    while kill -0 "$msrun_pid" 2>/dev/null; do  # a signal ended the wait
        status=0
        wait "$msrun_pid" || status=$?
    done
    wait || true  # for tail's last lines
    [ "$status" -eq 0 ] || report_failure "$logs"
}

# "scheduler", or the rank of a child of msrun; nothing while it is not known yet, and of the tails that msrun starts, which have
# the variables of a rank.
role_of() {
    local variables
    tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q -- ' -m ddpm_ms ' || return 0
    variables="$(tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null || true)"
    case "$variables" in
        *MS_ROLE=MS_WORKER*) sed -n 's/^RANK_ID=//p' <<<"$variables" ;;
        *MS_ROLE=MS_SCHED*) echo scheduler ;;
    esac
}

# Note the rank of every process while it lives, until all COUNT are known or msrun has ended.
remember_ranks() {
    local pid role
    while [ "${#rank_of[@]}" -lt "$1" ] && kill -0 "$msrun_pid" 2>/dev/null; do
        for pid in $(pgrep -P "$msrun_pid"); do
            role="$(role_of "$pid")"
            [ -z "$role" ] || rank_of[$pid]="$role"
        done
        sleep 0.1
    done
}

# After a failure msrun ends the other workers and waits for its scheduler, which needs half a minute to notice.
end_scheduler() {
    local pid
    until grep -qs "exit with exception" "$1/msrun.log"; do  # an error: warnings may be turned off (GLOG_v)
        kill -0 "$msrun_pid" 2>/dev/null || return 0
        sleep 0.5
    done
    for pid in $(pgrep -P "$msrun_pid"); do
        [ "$(role_of "$pid")" != scheduler ] || kill -KILL "$pid" 2>/dev/null || true
    done
}

# The first request lets every rank finish its step and save; the second ends all at once.
stop_ranks() {
    stops=$((stops + 1))
    signal_ranks
}

signal_ranks() {
    local pid
    for pid in "${!rank_of[@]}"; do
        if [ "$stops" -gt 1 ]; then
            kill -KILL "$pid" 2>/dev/null || true
        elif [ "${rank_of[$pid]}" != scheduler ]; then
            kill -TERM "$pid" 2>/dev/null || true
        fi
    done
}

# Whatever happened, nothing stays behind.
kill_ranks() {
    local pid
    for pid in "${!rank_of[@]}" $(pgrep -P "$msrun_pid") "$msrun_pid"; do
        kill -KILL "$pid" 2>/dev/null || true
    done
}

# Say which rank failed first, show the end of its log, and return its status as a shell would (128 + signal).
report_failure() {
    local logs="$1" found pid code rank
    found="$(sed -n 's/.*Worker process \([0-9]*\) exit with exception. Error code: \(-\{0,1\}[0-9]*\).*/\1 \2/p' \
        "$logs/msrun.log" | head -n 1)"
    if [ -z "$found" ]; then
        echo "msrun failed; see $logs/msrun.log" >&2
        return 1
    fi
    pid="${found% *}" code="${found#* }" rank="${rank_of[${found% *}]:-?}"
    [ "$code" -ge 0 ] || code=$((128 - code))
    echo "rank $rank failed with status $code; its log: $logs/worker_$rank.log" >&2
    [ ! -f "$logs/worker_$rank.log" ] || grep -v '^\[\(WARNING\|INFO\)\]' "$logs/worker_$rank.log" | tail -n 5 >&2 || true
    return "$code"
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
    check_count "$device" "$num"
    use_package
    if [ "$num" -eq 1 ]; then
        exec python -m ddpm_ms "$command" --checkpoint "$checkpoint" --device "$device" "$@"
    fi
    [ "$device" = CPU ] || try_device "$device"
    launch_ranks "$device" "$num" "$checkpoint/${command}_logs" "$command" --checkpoint "$checkpoint" --device "$device" "$@"
}
