# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with the package in it, once, and puts it first in PATH.
# PYTHON=/path/to/python3.x chooses the interpreter; VENV=/path another place for the environment. Sets root, the repository.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# A command that was asked to stop ends with status 0, as a cluster expects; a script must not go on with half of its result.
trap 'exit 130' INT
trap 'exit 143' TERM

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.10 python3.9; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 \
            && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.9 to 3.12 with venv found; install one (Debian: apt-get install python3-venv) or set PYTHON=..." >&2
    return 2
}

# install_package EXTRAS: EXTRAS, as pip takes them, is "", "[digits,evaluate]" or "[dev]".
install_package() {
    local extras="$1" venv="${VENV:-$root/.venv}" python stamp
    stamp="$venv/.installed$extras-$(cat "$root/setup.py" "$root/pyproject.toml" | cksum | cut -d ' ' -f 1)"
    if [ ! -f "$stamp" ]; then
        python="$(find_python)"
        echo "Installing into $venv (once)"
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras"
        touch "$stamp"
    fi
    export PATH="$venv/bin:$PATH"
}

# install_peer: denoising-diffusion-pytorch and diffusers in an environment of their own. Sets peer_python.
install_peer() {
    local peer="${PEER_VENV:-$root/.venv-peer}" python stamp
    stamp="$peer/.installed-with-diffusers"
    if [ ! -f "$stamp" ]; then
        python="$(find_python)"
        echo "Installing the peer into $peer (once)"
        [ -x "$peer/bin/python" ] || "$python" -m venv "$peer"
        "$peer/bin/python" -m pip install --quiet --disable-pip-version-check \
            torch==2.13.0 diffusers==0.42.0 "numpy<2" einops ema-pytorch accelerate scipy pillow tqdm
        "$peer/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps denoising-diffusion-pytorch==2.3.4
        touch "$stamp"
    fi
    # shellcheck disable=SC2034  # read by the script that asked
    peer_python="$peer/bin/python"
}
