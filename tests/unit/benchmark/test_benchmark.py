"""The benchmark's own machinery; it is the only place where times are measured, and here none is judged."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from ddpm_ms import DDPMUnet
from ddpm_ms.benchmark import versus
from ddpm_ms.benchmark.cases import CASES, GROWTH, Case
from ddpm_ms.cli import main

ROOT = Path(__file__).parents[3]
WORKER = """
import sys
evaluations = 0
for line in sys.stdin:
    kind, count = line.split()
    evaluations += kind == "eval"
    right = count == ("5" if kind == "eval" and evaluations > 2 else "1")  # half a second, once it is known how long one takes
    print({"train": SECONDS, "eval": 0.1, "sample": 3.0, "memory": 100.0}[kind] if right else 99, flush=True)
"""


def worker(seconds):
    return versus.Side([sys.executable, "-c", WORKER.replace("SECONDS", str(seconds))])


def test_rows_hold_the_median_ratio_to_the_better_peer(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(versus, "PAUSE", 0)
    monkeypatch.setattr(versus, "ours", lambda case: worker(1.0))
    monkeypatch.setattr(versus, "theirs", lambda python, case, *options: worker(2.0 if options else 4.0))
    monkeypatch.setattr(versus, "start", lambda cases, python: [
        {"case": case, "kind": "train", **{f"{kind}_{unit}": value for unit in ("s", "mib")
                                           for kind, value in (("first", 9), ("later", 2), ("eager", 3))}} for case in cases])
    monkeypatch.setattr(sys, "argv", ["versus", "--peer-python", "none", "--out", str(tmp_path), "--cases", "ae", "--pairs", "3"])
    versus.main()
    rows = json.loads((tmp_path / "benchmark.json").read_text())
    assert [(row["case"], row["kind"]) for row in rows] == [("a", "train"), ("a", "eval"), ("e", "sample")]
    assert rows[0].items() >= {"ours_s": 1.0, "eager_s": 4.0, "compiled_s": 2.0, "peer": "compiled", "ratio": 0.5,
                               "ours_peak_mib": 100.0}.items()
    assert rows[1]["ours_s"] == rows[1]["eager_s"] == 0.1
    assert (tmp_path / "benchmark.png").is_file()
    assert "| a | train | 1.0000 | 4.0000 | 2.0000 | 0.50 |" in (out := capsys.readouterr().out)
    assert "| e | train | 9.0 | 2.0 | 3.0 | 9 | 2 | 3 |" in out and (tmp_path / "start.json").is_file()


def test_growth_is_measured_beside_eager_pytorch_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(versus, "PAUSE", 0)
    monkeypatch.setattr(versus, "ours", lambda case: worker(1.0))
    monkeypatch.setattr(versus, "theirs", lambda python, case: worker(4.0))
    monkeypatch.setattr(sys, "argv", ["versus", "--peer-python", "none", "--out", str(tmp_path), "--pairs", "1", "--growth"])
    versus.main()
    rows = json.loads((tmp_path / "growth.json").read_text())
    assert {(row["grows"], row["to"], row["kind"]) for row in rows} == {
        (grows, size, kind) for grows, cases in GROWTH.items() for size in cases for kind in ("train", "eval")}
    assert rows[0].items() >= {"peer": "eager", "ratio": 0.25, "ours_s": 1.0, "eager_s": 4.0}.items()
    assert (tmp_path / "growth.png").is_file()


def test_both_sides_build_the_network_of_the_case(monkeypatch, cpu_runtime):
    from ddpm_ms.benchmark.work import Work

    case = Case(32, (1, 2), 3, 8, 1, (False, True))
    network = Work(case).diffusion.model
    assert isinstance(network, DDPMUnet) and network.config.attention_levels == (False, True)
    commands = []
    monkeypatch.setattr(versus, "Side", commands.append)
    versus.theirs("python", case)
    versus.ours(case)
    assert json.loads(commands[0][2]) == json.loads(commands[1][3]) == json.loads(json.dumps(vars(case)))


def test_the_peers_scripts_import_from_each_other_what_is_there():
    # PyTorch is not among what the tests install: they are read, not run.
    scripts = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "scripts").glob("*.py")}
    defined = {name: {getattr(node, "name", None) or getattr(part, "asname", None) or getattr(part, "name", None)
                      for node in tree.body for part in getattr(node, "names", [None])} for name, tree in scripts.items()}
    imported = [(node.module, part.name) for tree in scripts.values() for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module in scripts for part in node.names]
    assert ("benchmark_peer", "EMA") in imported
    assert [one for one in imported if one[1] not in defined[one[0]]] == []


def test_the_process_that_compares_does_not_import_mindspore():
    # MindSpore sets OMP_NUM_THREADS to 1, and both sides would inherit it.
    code = "import sys, ddpm_ms.benchmark.versus; print('mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_the_command_times_this_package_and_tells_where_the_time_goes(capsys, tmp_path):
    assert main(["benchmark", "--device", "CPU", "--case", "d", "--work", "eval", "--repeats", "1", "--operators",
                 str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"case d: {CASES['d']}" in out and "| eval |" in out and "| operator | calls |" in out and "MatMul" in out
    assert main(["benchmark", "--repeats", "0"]) == 2


def test_reading_files_is_timed_too(capsys):
    kinds = ["load", "load_photos", "load_packed"]
    assert main(["benchmark", "--device", "CPU", "--case", "d", "--work", *kinds, "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert all(f"| {kind} |" in out for kind in kinds)


def test_other_work_has_other_graphs_in_the_cache(monkeypatch):
    from ddpm_ms.benchmark import work

    keys = []

    class Cache:
        def __init__(self, key):
            keys.append(key)

        def seal(self):
            pass

    monkeypatch.setattr(work, "Work", lambda case: type("Idle", (), {"train": lambda self: None, "sample": lambda self: None})())
    monkeypatch.setattr(work.runtime, "setup", lambda config: None)
    monkeypatch.setattr(work.runtime, "CompileCache", Cache)
    for kind in ("train", "sample"):
        monkeypatch.setattr(sys, "stdin", [f"{kind} 1\n", f"{kind} 2\n"])
        work.serve(CASES["a"], compile_cache=True)
    assert len(keys) == len(set(keys)) == 2
