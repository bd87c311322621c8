"""The compile cache: what it is keyed by, and that nothing that happens to it can spoil a run."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_ms import runtime
from ddpm_ms.cli import main
from ddpm_ms.config import Config, DiffusionConfig, RuntimeConfig, TrainingConfig, config_from_dict
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.runtime import CompileCache, graphs
from ddpm_ms.training.compilation import Compilation, _in_graphs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty cache of one's own; MindSpore is not told of it."""
    monkeypatch.setattr(runtime.caches, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(runtime, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(graphs, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(graphs, "_set_cache", lambda path: None)
    return tmp_path / "cache" / "graphs"


def start(key="a recipe"):
    """The cache as a process that has just started opens it."""
    graphs._cache_was_used = False
    cache = CompileCache(key)
    graphs._cache_was_used = True
    return cache


def compile_into(cache, text="a graph"):
    folder = cache._path / "rank_0"
    folder.mkdir()
    (folder / "compile_cache_0.mindir").write_text(text)
    (folder / "compile_cache_0.mindir").chmod(0o400)  # as MindSpore leaves them
    cache.seal()


def found(cache):
    return {path.name: path.read_text() for path in cache._path.rglob("*.*")}


def entries(place):
    return sorted(path.name for path in place.iterdir())


def test_what_was_compiled_is_found_by_the_same_key_alone(place):
    first = start()
    assert first.state == "new" and found(first) == {}
    compile_into(first)
    again = start()
    assert again.state == "found" and found(again) == {"compile_cache_0.mindir": "a graph"}
    again.seal()
    again.seal()
    assert entries(place) == [graphs.graph_key("a recipe")]
    assert start("another").state == "new"


def test_a_process_uses_the_cache_once(place):
    """MindSpore numbers graphs from the start of the process: the second time it would take others than it left."""
    compile_into(start())
    assert CompileCache("a recipe").state == "off"


def test_of_a_kept_graph_the_first_call_opens_the_cache_under_a_name_that_has_the_shapes(place, monkeypatch):
    def entry_of(array, key="a network"):
        monkeypatch.setattr(graphs, "_cache_was_used", False)
        before, graph = set(entries(place)) if place.is_dir() else set(), runtime.kept(lambda x, nothing: x + 1, key)
        for _ in range(2):
            assert (graph(array, None) == array + 1).all()
        assert graph(np.zeros(7), None).shape == (7,)
        new, = set(entries(place)) - before
        return new

    names = {entry_of(np.zeros(3)), entry_of(np.zeros(4)), entry_of(np.zeros(3, np.float32)), entry_of(np.zeros(3), "another")}
    assert len(names) == 4


@pytest.mark.parametrize("harm", ["altered", "cut", "gone", "more", "unsealed", "no checksums"])
def test_a_damaged_entry_is_compiled_again(place, caplog, harm):
    compile_into(start())
    entry = place / graphs.graph_key("a recipe")
    file = entry / "rank_0" / "compile_cache_0.mindir"
    file.chmod(0o600)
    if harm == "altered":
        file.write_text("a grape")
    elif harm == "cut":
        file.write_text("a g")
    elif harm == "gone":
        file.unlink()
    elif harm == "more":
        (entry / "rank_0" / "compile_cache_1.mindir").write_text("of another order")
    elif harm == "unsealed":
        (entry / "checksums.json").unlink()
    else:
        (entry / "checksums.json").write_text("{")
    again = start()
    assert again.state == "new" and found(again) == {} and "compiling them again" in caplog.text
    compile_into(again)
    assert start().state == "found"


def test_of_two_processes_that_compile_at_once_one_publishes_and_nothing_is_left_over(place):
    one, other = start(), start()
    assert one.state == other.state == "new"
    compile_into(one, "of the first")
    compile_into(other, "of the second")
    assert entries(place) == [graphs.graph_key("a recipe")]
    assert found(start()) == {"compile_cache_0.mindir": "of the first"}


def test_clearing_takes_nothing_from_a_process_that_is_starting(place):
    compile_into(start())
    cache = start()
    shutil.rmtree(place / graphs.graph_key("a recipe"))
    assert found(cache) == {"compile_cache_0.mindir": "a graph"}
    cache.seal()


@pytest.mark.parametrize("why", ["no directory", "full"])
def test_where_nothing_can_be_kept_graphs_are_compiled_without_a_cache(place, monkeypatch, why):
    if why == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    else:
        place.parent.write_text("a file")
    cache = start()
    assert cache.state == "off"
    cache.seal()


def test_what_killed_processes_left_and_what_nobody_uses_goes(place, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_ENTRIES", 2)
    for number, age in enumerate((5, 4, 3)):
        (place / f"entry{number}").mkdir(parents=True)
        os.utime(place / f"entry{number}", (time.time() - age,) * 2)
    for name, age in (("partial-old", 2 * 24 * 3600), ("partial-new", 60)):
        (place / name).mkdir()
        os.utime(place / name, (time.time() - age,) * 2)
    start()
    assert [name for name in entries(place) if name in ("partial-old", "partial-new") or name.startswith("entry")] == [
        "entry1", "entry2", "partial-new"]


def test_the_key_covers_every_source_the_environment_and_the_build_of_mindspore(tmp_path, monkeypatch):
    shutil.copytree(graphs.PACKAGE / "ops", tmp_path / "ops")
    monkeypatch.setattr(graphs, "PACKAGE", tmp_path)
    keys = [graphs.graph_key(0)]
    with (tmp_path / "ops" / "softmax.py").open("a") as file:
        file.write("# an edit\n")
    keys.append(graphs.graph_key(0))
    monkeypatch.setenv("MS_DEV_SOMETHING", "1")
    keys.append(graphs.graph_key(0))
    monkeypatch.setattr(graphs, "_mindspore_commit", lambda: "another")
    keys.append(graphs.graph_key(0))
    monkeypatch.setattr(graphs, "native_library", lambda: "another.so")
    keys.append(graphs.graph_key(0))
    assert len(set(keys)) == 5 and graphs.graph_key(0) == keys[-1]


def test_a_recipe_that_only_runs_longer_has_the_same_graphs_and_any_other_change_has_others():
    def key(**training):
        return _in_graphs(Config(training=TrainingConfig(**training)))

    assert key() == key(train_num_steps=7, log_every=3, keep_last=9, num_samples=0)
    assert _in_graphs(config_from_dict({"data": {"root": "x"}, "sampling": {"steps": 3}})) == key()
    for changes in (dict(train_batch_size=3), dict(max_grad_norm=0), dict(weight_decay=0.1), dict(recompute=True), dict(seed=1)):
        assert key(**changes) != key()
    assert _in_graphs(Config(diffusion=DiffusionConfig(timesteps=7))) != key()


class Mine(GaussianDiffusion):
    """A process whose loss nobody knows."""


@pytest.mark.parametrize(("wanted", "process", "world", "kept"), [
    (None, GaussianDiffusion, 1, True), (None, GaussianDiffusion, 2, False), (None, Mine, 1, False),
    (True, GaussianDiffusion, 2, True), (False, GaussianDiffusion, 1, False)])
def test_by_default_graphs_are_kept_where_the_key_covers_all_of_them(wanted, process, world, kept):
    config = Config(runtime=RuntimeConfig(compile_cache=wanted))
    diffusion = process.__new__(process)
    object.__setattr__(diffusion, "self_condition", False)
    assert Compilation(config, diffusion, None, world)._keeps == kept


def test_the_cache_can_be_seen_and_emptied(place, capsys):
    compile_into(start())
    (place.parent / "native").mkdir()
    (place.parent / "native" / "x.so").write_bytes(bytes(300_000))
    for kind in ("classifiers", "statistics"):
        (place.parent / kind).mkdir()
        (place.parent / kind / "x.npz").write_bytes(bytes(100_000))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(place.parent), "  compiled graphs: 1 entry, 0.0 MB", "  CPU operators: 1 entry, 0.3 MB",
        "  classifiers: 1 entry, 0.1 MB", "  statistics: 1 entry, 0.1 MB"]
    assert main(["cache", "--clear"]) == 0
    assert "compiled graphs: 0 entries, 0.0 MB" in capsys.readouterr().out
    # MindSpore opens the library again for every new graph of a process that is running.
    assert sorted(path.name for path in Path(place.parent).rglob("*.*")) == ["x.npz", "x.npz", "x.so"]
