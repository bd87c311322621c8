#!/usr/bin/env bash
# Train this package and denoising-diffusion-pytorch on the same images, at once, and say which draws better.
set -euo pipefail

usage() {
    echo "usage: bash scripts/quality_vs_torch.sh [DATA=SEEDS ...]"
    echo "DATA=SEEDS: digits=3 fashion_mnist=1 by default. Both sides train 1,500 steps of the same network and batch size"
    echo "at once, each on a core of its own; this package goes on until it has had as much of a core's time as the peer. 2,048"
    echo "images of each are judged."
    echo "Everything goes to runs/quality; what is finished there is not done again. By estimate digits take 15 minutes a"
    echo "seed on two cores, Fashion-MNIST 90, for which FASHION_MNIST names the folder of its files."
    echo "Environment: FASHION_MNIST (default: where Debian's package dataset-fashion-mnist puts it), PYTHON, VENV, PEER_VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_peer
install_package "[digits,evaluate]"
cd "$root"

fashion="${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}"
work=("$@")
[ ${#work[@]} -gt 0 ] || work=(digits=3 fashion_mnist=1)
for item in "${work[@]}"; do
    for ((seed = 0; seed < ${item#*=}; seed++)); do
        python scripts/quality_vs_torch.py train "${item%%=*}" "$seed" --peer-python "$peer_python" --root "$fashion"
        python scripts/quality_vs_torch.py judge "${item%%=*}" "$seed"
    done
done
python scripts/quality_vs_torch.py table
