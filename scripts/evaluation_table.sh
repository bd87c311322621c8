#!/usr/bin/env bash
# Train three recipes on labelled images, draw from each with two samplers, and compare with the real images.
set -euo pipefail

usage() {
    echo "usage: bash scripts/evaluation_table.sh [DATA ...]"
    echo "DATA: digits, fashion_mnist (default: both). Three recipes are trained on each, two samplers draw 1,024 images of every run"
    echo "(of digits 1,797, as many as there are), and FID, KID, precision and recall say how near these are to the real ones, in the"
    echo "features of a classifier that learns the labels first. The last row compares real images with real images: the floor."
    echo "Runs and what was printed of each go to runs/evaluation; what is there is not done again."
    echo "Environment: FASHION_MNIST (default: where Debian's package dataset-fashion-mnist puts it), PYTHON, VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[digits]"
cd "$root"

fashion="${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}"
samplers=("ddim 25" "dpmpp_2m 15")

# compare DATA NAME OPTIONS...: what is printed of a comparison, kept as runs/evaluation/DATA/NAME.txt.
compare() {
    local file="runs/evaluation/$1/$2.txt"
    shift 2
    [ ! -f "$file" ] || return 0
    ddpm-ms evaluate --device CPU --metric fid kid precision recall --features classifier "$@" >"$file.partial"
    mv "$file.partial" "$file"
}

# recipe DATA NAME COUNT RECIPE [OVERRIDES...]: train it, and compare what each sampler draws with what it was trained on.
recipe() {
    local data="$1" name="$2" count="$3" config="$4" run="runs/evaluation/$1/$2" sampler
    shift 4
    ddpm-ms train --config "$config" --run-dir "$run" training.num_samples=0 "$@"
    for sampler in "${samplers[@]}"; do
        compare "$data" "$name, ${sampler/ /, }" --checkpoint "$run" --sampler "${sampler% *}" --steps "${sampler#* }" -n "$count"
    done
}

# halves: what is printed of one half of the real digits against the other, which no data set has under a name.
halves() {
    python - <<'EOF'
from ddpm_ms import runtime
from ddpm_ms.config import DataConfig
from ddpm_ms.data import ArrayDataset, create_dataset
from ddpm_ms.evaluation import protocol
from ddpm_ms.evaluation.features import FeatureRequest
from ddpm_ms.evaluation.sides import Side
from ddpm_ms.parts import FEATURES

data = DataConfig(name="digits", image_size=8, channels=1)
whole = create_dataset(data)
images = whole.load(range(len(whole)))


def side(what, some):
    return Side(what, len(some), whole.shape, lambda: ArrayDataset(some, 1))


features = FEATURES["classifier"](FeatureRequest(whole.shape, data))
print(protocol.compare(side("digits 0, 2, 4, ...", images[::2]), side("digits 1, 3, 5, ...", images[1::2]),
                       ["fid", "kid", "precision", "recall"], features, runtime.current()))
EOF
}

# table DATA: a row for each comparison.
table() {
    local file
    printf '\n### %s\n\n| | FID | KID | precision | recall |\n| --- | --- | --- | --- | --- |\n' "$1"
    for file in "runs/evaluation/$1"/*.txt; do
        printf '| %s |' "$(basename "$file" .txt)"
        awk '$1 == "fid" || $1 == "precision" || $1 == "recall" { v[$1] = sprintf("%.3f", $2) }
             $1 == "kid" && $2 != "is" { v["kid"] = sprintf("%.4f", $2) }
             END { printf " %s | %s | %s | %s |\n", v["fid"], v["kid"], v["precision"], v["recall"] }' "$file"
    done
}

names=("$@")
[ ${#names[@]} -gt 0 ] || names=(digits fashion_mnist)
for data in "${names[@]}"; do
    mkdir -p "runs/evaluation/$data"
    case "$data" in
        digits)
            ddpm-ms evaluate --device CPU --train-classifier --images digits
            recipe digits unconditional 1797 digits_unconditional
            recipe digits conditional 1797 digits
            recipe digits s2 1797 configs/seeds/s2_digits.yaml
            halves >"runs/evaluation/digits/real, one half against the other.txt"
            ;;
        fashion_mnist)
            ddpm-ms evaluate --device CPU --train-classifier --images fashion_mnist "root=$fashion"
            shorter=("data.root=$fashion" training.train_num_steps=1000)
            recipe fashion_mnist unconditional 1024 fashion_mnist_cpu "${shorter[@]}"
            recipe fashion_mnist conditional 1024 fashion_mnist_cpu "${shorter[@]}" model.num_classes=10
            recipe fashion_mnist narrow 1024 fashion_mnist_cpu "${shorter[@]}" model.dim=16
            compare fashion_mnist "real, test against training" --images fashion_mnist "root=$fashion" part=test \
                --against fashion_mnist "root=$fashion"
            ;;
        *) usage >&2; exit 2 ;;
    esac
done
for data in "${names[@]}"; do table "$data"; done
