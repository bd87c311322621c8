#!/usr/bin/env bash
# Time this package and PyTorch (denoising-diffusion-pytorch; diffusers for cases g and h) on the CPU, in alternation, with the
# same work.
set -euo pipefail

usage() {
    echo "usage: bash scripts/benchmark_vs_torch.sh [--cases abcdegh] [--pairs 7] [--growth]"
    echo "Installs this package into .venv and the peer (PyTorch, as it comes and compiled by torch.compile, which needs g++) into"
    echo ".venv-peer, runs them in alternation, prints a table and writes runs/benchmark/benchmark.json and benchmark.png. Took"
    echo "25 minutes on two cores of a Xeon; leave the machine alone meanwhile."
    echo "--growth: instead, time and memory against the resolution of the images and the width of the network, beside PyTorch as it"
    echo "comes, to growth.json and growth.png."
    echo "Environment: PYTHON, VENV, PEER_VENV."
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_peer
install_package ""
cd "$root"
python -m ddpm_ms.benchmark.versus --peer-python "$peer_python" "$@"
