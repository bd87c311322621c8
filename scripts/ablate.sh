#!/usr/bin/env bash
# Change one choice of training at a time, and say which one draws better.
set -euo pipefail

usage() {
    echo "usage: bash scripts/ablate.sh [--seeds N] [DATA ...]"
    echo "DATA: digits, fashion14, fashion_mnist (default: digits fashion14). Every variant of scripts/ablate.py is trained on digits,"
    echo "the finalists on the others, with N seeds (default 1), one run per core at a time; 512 images of each run are judged; then"
    echo "a table is printed. Runs go to runs/ablate; what is finished there is not done again."
    echo "A run takes 2 to 4 minutes of a core on digits, 3 to 8 on fashion14, and 30 on fashion_mnist."
    echo "Environment: JOBS (default: the cores), FASHION_MNIST (default: where Debian's dataset-fashion-mnist puts it), PYTHON, VENV."
}
seeds=1
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --seeds) seeds="${2:?}"; shift 2 ;;
        *) break ;;
    esac
done

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_package "[digits,evaluate]"
cd "$root"

data=("$@")
[ ${#data[@]} -gt 0 ] || data=(digits fashion14)
export FASHION_MNIST="${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}"
mkdir -p runs/ablate
if [[ " ${data[*]} " == *" fashion14 "* ]] && [ ! -f runs/ablate/fashion14.npz ]; then
    python scripts/ablate.py prepare "$FASHION_MNIST"
fi
python scripts/ablate.py jobs "${data[@]}" --seeds "$seeds" \
    | xargs -P "${JOBS:-$(nproc)}" -L 1 python scripts/ablate.py train
python scripts/ablate.py table
