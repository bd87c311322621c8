#!/usr/bin/env bash
# Train a small diffusion model on real handwritten digits, on the CPU, and look at what it draws.
set -euo pipefail

usage() {
    echo "usage: bash scripts/quickstart.sh [section.key=value ...]"
    echo "Installs into .venv, trains configs/digits.yaml into runs/digits, samples and scores. Run it again to resume."
    echo "Environment: RUN_DIR (default runs/digits), PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[digits,evaluate]"
cd "$root"

run_dir="${RUN_DIR:-runs/digits}"
ddpm-ms train --config configs/digits.yaml --run-dir "$run_dir" "$@"
if [ ! -f "$run_dir/reverse.gif" ]; then
    ddpm-ms sample --checkpoint "$run_dir" --device CPU --out "$run_dir/samples.png" --gif "$run_dir/reverse.gif"
fi
status=0
ddpm-ms evaluate --checkpoint "$run_dir" --device CPU || status=$?
ddpm-ms report "$run_dir"

cat <<EOF

Report           $run_dir/report.html (open it in a browser)
Samples          $run_dir/samples.png
Reverse process  $run_dir/reverse.gif
Loss curve       $run_dir/loss.png
Metrics          $run_dir/metrics.jsonl
Checkpoints      $run_dir/checkpoints/

Sample again:    .venv/bin/ddpm-ms sample --checkpoint $run_dir --seed 1 --out more.png
EOF
exit "$status"
