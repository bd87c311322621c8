"""This package and PyTorch in alternation, each with the same network; run by scripts/benchmark_vs_torch.sh.

This process must not import MindSpore: that sets OMP_NUM_THREADS to 1, which both sides would inherit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ddpm_ms import visual
from ddpm_ms.benchmark.cases import CASES

WORK = {"e": ("sample",), **dict.fromkeys("abcdgh", ("train", "eval"))}
PAUSE = 0.5  # before each measurement: the other side's idle threads go on spinning for a moment and would take a core
PEER = Path(__file__).parents[2] / "scripts" / "benchmark_peer.py"


class Side:
    """A process that does work when asked, and says how long it took."""

    def __init__(self, command: list[str]) -> None:
        self.began = time.perf_counter()
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.DEVNULL)
        assert self.process.stdin is not None and self.process.stdout is not None  # pipes, as was asked
        self.questions, self.answers = self.process.stdin, self.process.stdout

    def ask(self, what: str) -> float:
        """Seconds that one piece of work took it."""
        time.sleep(PAUSE)
        self.questions.write(f"{what}\n")
        self.questions.flush()
        answer = self.answers.readline()
        if not answer:
            raise SystemExit(f"the benchmark's process ended: {' '.join(self.command)}")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self.questions.close()
        self.process.wait()


def ours(case: str) -> Side:
    """This package's side of a case."""
    return Side([sys.executable, "-m", "ddpm_ms.benchmark.work", case])


def theirs(python: str, name: str) -> Side:
    """The peer's side of a case."""
    return Side([python, str(PEER), json.dumps(dataclasses.asdict(CASES[name]))])


def compare(name: str, python: str, pairs: int) -> list[dict[str, Any]]:
    """One row for each kind of work of the case."""
    network = "a" if name == "e" else name
    sides = ours(network), theirs(python, network)
    rows = []
    for kind in WORK[name]:
        first = [side.ask(kind) for side in sides]
        for side in sides:
            side.ask(kind)
        times = [[side.ask(kind) for side in sides] for _ in range(pairs)]
        rows.append({"case": name, "kind": kind, "ours_s": statistics.median(t[0] for t in times),
                     "peer_s": statistics.median(t[1] for t in times), "ratio": statistics.median(a / b for a, b in times),
                     "ours_first_s": first[0], "peer_first_s": first[1], "pairs": pairs})
        memory = [side.ask("memory") for side in sides]
        rows[-1].update(ours_peak_mib=memory[0], peer_peak_mib=memory[1])
        print(f"{name} {kind}: ours {rows[-1]['ours_s']:.4f} s, peer {rows[-1]['peer_s']:.4f} s, ratio {rows[-1]['ratio']:.2f}; "
              f"first call {first[0]:.1f} s and {first[1]:.1f} s; peak {memory[0]:.0f} and {memory[1]:.0f} MiB", file=sys.stderr)
    for side in sides:
        side.close()
    return rows


def start_up() -> dict[str, float]:
    """Seconds from starting Python to the end of the first training step of case a, without and with a compile cache."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        own_cache = ["env", f"XDG_CACHE_HOME={cache}", sys.executable, "-m", "ddpm_ms.benchmark.work"]
        builder = Side([*own_cache, "d"])  # the native operators are no part of the compile cache
        builder.ask("memory")
        builder.close()
        for kind in ("cold", "warm"):
            side = Side([*own_cache, "a", "--compile-cache"])
            side.ask("train")
            found[kind] = time.perf_counter() - side.began
            side.close()
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each row of `compare`."""
    lines = ["| case | work | ours, s | peer, s | ours / peer | peak memory, MiB |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| {row['case']} | {row['kind']} | {row['ours_s']:.4f} | {row['peer_s']:.4f} | {row['ratio']:.2f} | "
                     f"{row['ours_peak_mib']:.0f} / {row['peer_peak_mib']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Compare all cases that the command line names, and write JSON, chart and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--cases", default="abcdegh")
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    rows = [row for name in arguments.cases for row in compare(name, arguments.peer_python, arguments.pairs)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "benchmark.json").write_text(json.dumps(rows, indent=1) + "\n")
    visual.save_benchmark(rows, arguments.out / "benchmark.png")
    print(table(rows))
    found = start_up()
    print(f"\nStart to the end of the first training step of case a: {found['cold']:.1f} s without a compile cache, "
          f"{found['warm']:.1f} s with it.")


if __name__ == "__main__":
    main()
