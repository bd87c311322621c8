#!/usr/bin/env bash
# Train every seed system's CPU variant, sample it, score it, and write what came out to docs/seed_systems.md.
set -euo pipefail

usage() {
    echo "usage: bash scripts/seed_systems.sh [NAME ...]"
    echo "NAME: s1_digits ... as in configs/seeds (default: all). Runs go to RUNS (default runs/seeds); what is finished"
    echo "there is not done again."
    echo "Pictures go to docs/images/seeds, the table, of all systems that have been run, to docs/seed_systems.md."
    echo "Environment: RUNS, PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[digits,evaluate]"
cd "$root"
runs="${RUNS:-runs/seeds}"
mkdir -p "$runs" docs/images/seeds

# seconds_of RUN...: how long they trained, without breaks.
seconds_of() {
    python - "$@" <<'EOF'
import sys
from pathlib import Path

from ddpm_ms.visual.runs import read_events, read_metrics, seconds_at_work

print(round(sum(seconds_at_work(read_events(Path(run)), read_metrics(run)) or 0 for run in sys.argv[1:])))
EOF
}

# add_row NAME COMMAND SECONDS RUN [OPTIONS...]: the picture, the score and a row of the table.
add_row() {
    local name="$1" command="$2" seconds="$3" run="$4" score status=0 recognised distance asked
    shift 4
    ddpm-ms sample --checkpoint "$run" --device CPU -n 64 --out "docs/images/seeds/$name.png" "$@"
    score="$(ddpm-ms evaluate --checkpoint "$run" --device CPU "$@")" || status=$?
    [ "$status" -le 1 ] || exit "$status"  # 1: it does not pass, which is a row, too
    recognised="$(sed -n 's/^recognised with p >= [0-9.]*: \([0-9.]*%\).*/\1/p' <<<"$score")"
    distance="$(sed -n 's/^Frechet distance: \([0-9.]*\).*/\1/p' <<<"$score")"
    asked="$(sed -n 's/^recognised as the class asked for: \(.*\)/, as asked for: \1/p' <<<"$score")"
    sed -n 's/.*(\([0-9.]*%\) of [0-9]* real images).*/\1/p; s/.*(real images \([0-9.]*\)).*/\1/p' <<<"$score" | paste -sd ' ' | sed 's/ / and /' >"$runs/real"
    # shellcheck disable=SC2016  # the backquotes are Markdown's
    printf '| `%s` | %s s | %s%s | %s | %s | ![samples](images/seeds/%s.png) |\n' \
        "$command" "$seconds" "$recognised" "$asked" "$distance" "$(tail -n 1 <<<"$score")" "$name" >"$runs/$name.row"
}

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for path in configs/seeds/*_digits.yaml; do names+=("$(basename "$path" .yaml)"); done
fi
for name in "${names[@]}"; do
    recipe="configs/seeds/$name.yaml" run="$runs/$name" options=()
    if [ ! -f "$recipe" ]; then
        echo "no $recipe" >&2
        exit 2
    fi
    [ ! -f "$runs/$name.row" ] || continue
    ddpm-ms train --config "$recipe" --run-dir "$run"
    if grep -q '^  validation_images:' "$recipe"; then options=(--best); fi
    if [ "$name" = s3_distill_digits ]; then
        ddpm-ms distill --teacher "$run" --steps 64 --to 4 --run-dir "${run}_students" --device CPU training.num_samples=0
        # The rows of four steps come after that of the teacher's own way: in the order of names.
        add_row "${name}_4" "... --sampler ddim --steps 4" "$(seconds_of "$run")" "$run" --sampler ddim --steps 4
        add_row "${name}_to_4" "ddpm-ms distill --teacher RUN --steps 64 --to 4" "$(seconds_of "${run}_students"/*)" \
            "${run}_students/steps_0004"
    fi
    add_row "$name" "ddpm-ms train --config $recipe" "$(seconds_of "$run")" "$run" ${options[@]+"${options[@]}"}
done

{
    echo "# The seed systems on digits"
    echo
    echo "Written by \`scripts/seed_systems.sh\`: the CPU variant of each system in [recipes.md](recipes.md), trained on"
    echo "scikit-learn's 1,797 digits of 8x8 pixels. Time: training on $(nproc) CPU cores, compilation included; other work may have"
    echo "run on the machine. Recognised: the share of 256 samples in which the quickstart's classifier sees one digit with"
    echo "p >= 0.9. Distance: the Fréchet distance to the training digits in that classifier's features. PASSED: at least 80 %"
    echo "recognised, all ten digits, and at most twice the distance of real digits. Real digits: $(cat "$runs/real")."
    echo "Systems that FAILED are shown as they came out. A row that begins with ... samples the run above it in another way;"
    echo "RUN is that run."
    echo
    echo "| command | time | recognised | distance | verdict | 64 samples |"
    echo "| --- | --- | --- | --- | --- | --- |"
    LC_ALL=C
    cat "$runs"/*.row
} >docs/seed_systems.md
echo "docs/seed_systems.md"
