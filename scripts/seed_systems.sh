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
install_package ""
cd "$root"
runs="${RUNS:-runs/seeds}"
mkdir -p "$runs" docs/images/seeds

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for path in configs/seeds/*_digits.yaml; do names+=("$(basename "$path" .yaml)"); done
fi
for name in "${names[@]}"; do
    if [ ! -f "configs/seeds/$name.yaml" ]; then
        echo "no configs/seeds/$name.yaml" >&2
        exit 2
    fi
    [ ! -f "$runs/$name/row.md" ] || continue
    began=$SECONDS
    ddpm-ms train --config "configs/seeds/$name.yaml" --run-dir "$runs/$name"
    seconds=$((SECONDS - began))
    ddpm-ms sample --checkpoint "$runs/$name" --device CPU -n 64 --out "docs/images/seeds/$name.png"
    score="$(ddpm-ms evaluate --checkpoint "$runs/$name" --device CPU || true)"  # a system that does not pass is a row, too
    recognised="$(sed -n 's/^digits recognised with p >= [0-9.]*: \([0-9.]*%\).*/\1/p' <<<"$score")"
    distance="$(sed -n 's/^Frechet distance: \([0-9.]*\).*/\1/p' <<<"$score")"
    asked="$(sed -n 's/^recognised as the class asked for: \(.*\)/, as asked for: \1/p' <<<"$score")"
    # shellcheck disable=SC2016  # the backquotes are Markdown's
    printf '| `ddpm-ms train --config configs/seeds/%s.yaml` | %s s | %s%s | %s | %s | ![samples](images/seeds/%s.png) |\n' \
        "$name" "$seconds" "$recognised" "$asked" "$distance" "$(tail -n 1 <<<"$score")" "$name" >"$runs/$name/row.md"
done

{
    echo "# The seed systems on digits"
    echo
    echo "Written by \`scripts/seed_systems.sh\`: each system of [recipes.md](recipes.md) in its CPU variant, on scikit-learn's 1,797"
    echo "digits of 8x8 pixels. Time: training on $(nproc) CPU cores, compilation included, other work on the machine not excluded."
    echo "Recognised: share of 256 samples in which the quickstart's classifier sees one digit with p >= 0.9. Distance: Fréchet"
    echo "distance to the training digits in that classifier. PASSED: at least 80 % recognised, all ten digits, and at most twice"
    echo "the distance of real digits. Real digits: 96.9 % and 1.34."
    echo
    echo "| command | time | recognised | distance | verdict | 64 samples |"
    echo "| --- | --- | --- | --- | --- | --- |"
    cat "$runs"/*/row.md
} >docs/seed_systems.md
echo "docs/seed_systems.md"
