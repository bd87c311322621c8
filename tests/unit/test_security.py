"""Nothing that a stranger wrote is executed, unpickled, or decides where something is written."""

import ast
import typing
from pathlib import Path

import numpy as np
import pytest

from ddpm_ms import load_config
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import Config, choices, network_section, to_dict
from ddpm_ms.config.sections import SECTIONS
from ddpm_ms.errors import InputError
from ddpm_ms.parts import NETWORKS

PACKAGE = Path(__file__).parents[2] / "ddpm_ms"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Last parts of names. MindSpore's own readers unpickle nothing, but take any .ckpt without a checksum.
CALLS = {"system", "popen", "load_checkpoint", "unsafe_load", "full_load", "load_all", "extractall", "unpack_archive"}


def calls(tree):
    """(dotted name, keywords) of every call in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node


def findings(source):
    """What a file does that it must not do."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
            [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"import {name}" for name in names if name.split(".")[0] in MODULES)
    for name, keywords, node in calls(tree):
        last = name.split(".")[-1]
        if name in BUILTINS or (last in CALLS and "." in name):
            yield name
        elif keywords.get("shell", "False") != "False":
            yield f"{name}(shell={keywords['shell']})"
        elif name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        elif name == "yaml.load" and [ast.unparse(a) for a in node.args[1:]] != ["_PlainLoader"]:
            yield "yaml.load with another loader"
        elif name == "Image.open" and "formats" not in keywords:
            yield "Image.open of any format"


@pytest.mark.parametrize("source", [
    "import pickle", "from torch import load", "import torch.nn", "eval('1')", "exec(x)", "os.system('ls')",
    "ms.load_checkpoint(x)", "subprocess.run(x, shell=True)", "np.load(x)", "np.load(x, allow_pickle=True)",
    "yaml.load(x, Loader)", "yaml.unsafe_load(x)", "Image.open(x)", "__import__('x')", "archive.extractall()",
])
def test_the_search_finds_what_it_is_for(source):
    assert list(findings(source))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_from_a_file_is_executed_or_unpickled(path):
    assert list(findings(path.read_text())) == []


def test_the_only_text_in_a_recipe_is_where_something_is_read_from():
    """Every other key is a number, a switch or one of a few words, so no recipe names a place to write to."""
    def takes_text(hint):
        inner = () if typing.get_origin(hint) is typing.Literal else typing.get_args(hint)
        return hint is str or any(map(takes_text, inner))

    kinds = [kind for name, kind in SECTIONS.items() if name != "model"] + [network_section(name) for name in NETWORKS]
    texts = [f"{kind.section}.{key}" for kind in kinds for key, field in kind.model_fields.items()
             if takes_text(field.annotation) and not choices(field)]
    assert set(Config.model_fields) - set(SECTIONS) == {"init"}  # read as any checkpoint is
    # Names of classes are shown, and open nothing. The teacher is read as any checkpoint is, and its checksum compared.
    assert texts == ["data.root", "data.class_names", "distillation.teacher", "distillation.sha256"]


def test_a_checkpoint_is_written_where_it_belongs_and_old_ones_are_removed_there_alone(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    (outside / "kept").mkdir(parents=True)
    (run / "checkpoints").mkdir(parents=True)
    for name in ("step_00000001", ".partial_step_00000002", "step_00000003"):
        (run / "checkpoints" / name).symlink_to(outside)
    arrays = {checkpoint.WEIGHTS: {"w": np.ones(2, np.float32)}}
    checkpoint.save(run / "checkpoints", 4, arrays, {"config": to_dict(Config())})
    with pytest.raises(OSError):
        checkpoint.save(run / "checkpoints", 2, arrays, {"config": {}})
    checkpoint.remove_old(run, keep=1, step=4)
    assert [path.name for path in outside.rglob("*")] == ["kept"]


def test_a_recipe_cannot_call_python(tmp_path):
    for text in ("!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/module:os"):
        (tmp_path / "c.yaml").write_text(f"model: {text}")
        with pytest.raises(InputError, match="not valid YAML"):
            load_config(tmp_path / "c.yaml")
