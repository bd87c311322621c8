"""This package and PyTorch in alternation, each with the same network; run by scripts/benchmark_vs_torch.sh.

PyTorch takes part twice, as it comes ("eager") and compiled by torch.compile; the better of the two is the peer.

This process must not import MindSpore: that sets OMP_NUM_THREADS to 1, which both sides would inherit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Sequence

from ddpm_ms import visual
from ddpm_ms.benchmark.cases import CASES, GROWTH, Case

WORK = {"e": ("sample",), **dict.fromkeys("abcdgh", ("train", "eval"))}
PAUSE = 0.5  # before each measurement: the other side's idle threads go on spinning for a moment and would take a core
LENGTH = 0.5  # seconds that a measurement takes at least: work is seldom done once, and after a pause the caches are cold
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

    def ask(self, what: str, count: int = 1) -> float:
        """Seconds that a piece of work took it, as the mean of ``count`` in a row."""
        time.sleep(PAUSE)
        self.questions.write(f"{what} {count}\n")
        self.questions.flush()
        answer = self.answers.readline()
        if not answer:
            raise SystemExit(f"the benchmark's process ended: {' '.join(self.command)}")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self.questions.close()
        self.process.wait()


def ours(case: Case) -> Side:
    """This package's side of a case."""
    return Side([sys.executable, "-m", "ddpm_ms.benchmark.work", _written(case)])


def theirs(python: str, case: Case, *options: str) -> Side:
    """The peer's side of a case."""
    return Side([python, str(PEER), _written(case), *options])


def _case(name: str) -> Case:
    return CASES["a" if name == "e" else name]


def _written(case: Case) -> str:
    return json.dumps(dataclasses.asdict(case))


def compare(name: str, python: str, pairs: int) -> list[dict[str, Any]]:
    """One row for each kind of work of the case."""
    case = _case(name)
    return _rows(name, {"ours": ours(case), "eager": theirs(python, case), "compiled": theirs(python, case, "--compile")},
                 WORK[name], pairs)


def grow(python: str, pairs: int) -> list[dict[str, Any]]:
    """Rows for each of `GROWTH`, beside PyTorch as it comes, with what grows, and to what."""
    return [{"grows": grows, "to": size, "batch": case.batch, **row} for grows, cases in GROWTH.items()
            for size, case in cases.items()
            for row in _rows(f"{grows} {size}", {"ours": ours(case), "eager": theirs(python, case)}, ("train", "eval"), pairs)]


def _rows(name: str, sides: dict[str, Side], kinds: Sequence[str], pairs: int) -> list[dict[str, Any]]:
    rows = [_compare(name, kind, sides, pairs) for kind in kinds]
    for side in sides.values():
        side.close()
    return rows


def _compare(name: str, kind: str, sides: dict[str, Side], pairs: int) -> dict[str, Any]:
    first = {who: side.ask(kind) for who, side in sides.items()}
    count = math.ceil(LENGTH / min(side.ask(kind) for side in sides.values()))
    times: dict[str, list[float]] = {who: [] for who in sides}
    for _ in range(pairs):
        for who, side in sides.items():
            times[who].append(side.ask(kind, count))
    middle = {who: statistics.median(found) for who, found in times.items()}
    peer = min((who for who in sides if who != "ours"), key=middle.__getitem__)
    row: dict[str, Any] = {"case": name, "kind": kind, "pairs": pairs, "peer": peer,
                           "ratio": statistics.median(a / b for a, b in zip(times["ours"], times[peer]))}
    for who, side in sides.items():
        row.update({f"{who}_s": middle[who], f"{who}_first_s": first[who], f"{who}_peak_mib": side.ask("memory")})
    print(f"{name} {kind}: {row['ratio']:.2f} of {peer}; "
          + "; ".join(f"{who} {middle[who]:.4f} s, first {first[who]:.1f} s, {row[f'{who}_peak_mib']:.0f} MiB" for who in sides),
          file=sys.stderr)
    return row


def start(names: str, python: str) -> list[dict[str, Any]]:
    """For each case, of this package with nothing in its compile cache ("first"), with its graphs there ("later"), and of eager:
    seconds from starting Python to the end of the first piece of work, and the peak of memory after three."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        own_cache = ["env", f"XDG_CACHE_HOME={cache}", sys.executable, "-m", "ddpm_ms.benchmark.work"]
        builder = Side([*own_cache, _written(CASES["d"])])  # the native operators are no part of the compile cache
        builder.ask("memory")
        builder.close()
        for name in names:
            case, kind = _case(name), WORK[name][0]
            row: dict[str, Any] = {"case": name, "kind": kind}
            for who in ("first", "later", "eager"):
                side = theirs(python, case) if who == "eager" else Side([*own_cache, _written(case), "--compile-cache"])
                side.ask(kind)
                row[f"{who}_s"] = time.perf_counter() - side.began
                side.ask(kind, 2)
                row[f"{who}_mib"] = side.ask("memory")
                side.close()
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each row of `compare`."""
    lines = ["| case | work | ours, s | eager, s | compiled, s | ours / better |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| {row['case']} | {row['kind']} | {row['ours_s']:.4f} | {row['eager_s']:.4f} | {row['compiled_s']:.4f} | "
                     f"{row['ratio']:.2f} |")
    return "\n".join(lines)


def start_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each row of `start`."""
    lines = ["| case | to the end of the first | first start, s | later, s | eager, s | peak memory, first start, MiB | later | "
             "eager |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [f"{row[f'{kind}_s']:.1f}" for kind in ("first", "later", "eager")]
        cells += [f"{row[f'{kind}_mib']:.0f}" for kind in ("first", "later", "eager")]
        lines.append(f"| {row['case']} | {row['kind']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare all cases that the command line names, and write JSON, chart and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--cases", default="abcdegh")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--growth", action="store_true", help="instead, against resolution and width")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.growth:
        rows = grow(arguments.peer_python, arguments.pairs)
        (arguments.out / "growth.json").write_text(json.dumps(rows, indent=1) + "\n")
        visual.save_growth(rows, arguments.out / "growth.png")
        return
    rows = [row for name in arguments.cases for row in compare(name, arguments.peer_python, arguments.pairs)]
    (arguments.out / "benchmark.json").write_text(json.dumps(rows, indent=1) + "\n")
    visual.save_benchmark(rows, arguments.out / "benchmark.png")
    print(table(rows), flush=True)
    rows = start(arguments.cases, arguments.peer_python)
    (arguments.out / "start.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(start_table(rows))


if __name__ == "__main__":
    main()
