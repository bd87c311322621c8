"""Every MindSpore name that the package uses is documented for Ascend, GPU and CPU, or its exception is stated here.

No Ascend can be reached by the tests: this holds what MindSpore documents, not that it runs.
"""

import ast
import importlib
import re
from pathlib import Path

import mindspore as ms
import pytest
from mindspore import nn, ops

from ddpm_ms import DDPMUnet, Unet, runtime

PACKAGE = Path(__file__).parents[2] / "ddpm_ms"
DEVICES = {"Ascend", "GPU", "CPU"}
# Name: (where it works, the condition that must stand in every file that uses it).
EXCEPTIONS = {
    # Communication is documented for devices; on CPUs it works nonetheless. One process never comes to it.
    "ops.AllGather": ({"Ascend", "GPU"}, "runtime.world == 1"),
    "ops.Broadcast": ({"Ascend", "GPU"}, "runtime.world == 1"),
    "nn.DistributedGradReducer": ({"Ascend", "GPU"}, "if world > 1"),
    # `ddpm-ms benchmark --operators`; on CPUs it works, too.
    "ms.profiler.profile": ({"Ascend", "GPU"}, "activities = [activity.CPU] if"),
    "ops.flash_attention_score": ({"Ascend"}, 'runtime.device_target() == "Ascend"'),
}
# Documented for all, but what it calls here are this package's own operators for CPUs.
CPU_LIBRARY = ("ops.Custom", "runtime.native_library()")
# What computes nothing on a device.
NO_OPERATORS = {
    "data and their types": {"ms.Tensor", "ms.Parameter", "ms.ParameterTuple", "ms.Type", "ms.float16", "ms.bfloat16",
                             "ms.float32", "ms.int32"},
    "settings and questions": {"ms.set_context", "ms.get_context", "ms.set_device", "ms.set_seed", "ms.PYNATIVE_MODE"},
    "what an operator does to its inputs": {"ops.signature"},
    "written to be run while a graph is compiled": {"ops.constexpr"},
    "rewrites a network; what it inserts are casts": {"ms.amp.auto_mixed_precision"},
    "initial values, made on the host": {"common.initializer.Normal", "common.initializer.XavierUniform",
                                             "common.initializer.initializer"},
    "reading and writing files, on the host": {"dataset.MindDataset", "dataset.SubsetSampler", "mindrecord.FileReader",
                                               "mindrecord.FileWriter"},
    "graphs in files": {"ms.export", "ms.load", "ms.onnx.export"},
    "measuring": {"ms.profiler.ProfilerActivity", "ms.profiler.tensorboard_trace_handler"},
}
NOT_ON_A_DEVICE = set().union(*NO_OPERATORS.values())


def names_used(path):
    """Dotted MindSpore names in a file, as ``ops.Cast``, ``nn.Dense``, ``ms.jit``, ``amp.all_finite``."""
    tree = ast.parse(path.read_text())
    aliases, used = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, *rest = alias.name.split(".")
                if top == "mindspore":
                    aliases[alias.asname or top] = ".".join(rest) if alias.asname and rest else "ms"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mindspore":
            package = node.module.removeprefix("mindspore").lstrip(".")
            for alias in node.names:
                if not package and alias.name in ("ops", "nn", "mint", "amp"):
                    aliases[alias.asname or alias.name] = alias.name
                else:
                    used.add(f"{package or 'ms'}.{alias.name}")
    for node in ast.walk(tree):
        dotted = _dotted(node)
        if dotted and dotted[0] in aliases:
            used.add(_resolved([*aliases[dotted[0]].split("."), *dotted[1:]]))
    # A walk meets the parts of a name as well: ms.profiler and ms.profiler.profile.
    return {name for name in used if "." in name and not any(other.startswith(f"{name}.") for other in used)}


def _dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) and parts else None


def _resolved(parts):
    """Without attributes of what is no module (``ops.Custom.x``), and with ``ms.ops`` as ``ops``."""
    parts = parts[1:] if parts[0] == "ms" and parts[1] in ("ops", "nn", "mint") else parts
    for length in range(2, len(parts)):
        if not isinstance(target(".".join(parts[:length])), type(ms)):
            return ".".join(parts[:length])
    return ".".join(parts)


def target(name):
    """The object that a name stands for."""
    first, *rest = name.split(".")
    found = {"ms": ms, "ops": ops, "nn": nn}.get(first) or importlib.import_module(f"mindspore.{first}")
    for part in rest:
        found = getattr(found, part)
    return found


def platforms(name):
    """What the documentation of ``name``, or of the function that it refers to, says of devices; None if it says nothing."""
    text = target(name).__doc__ or ""
    block = re.search(r"Supported Platforms:\s*\n(.*?)(?:\n\s*\n|\Z)", text, re.S)
    if block:
        return set(re.findall(r"``(\w+)``", block[1]))
    reference = re.search(r"Refer to :func:`mindspore\.([\w.]+)` for more details", text)
    return platforms(reference[1]) if reference else None


FILES = sorted(PACKAGE.rglob("*.py"))
USED = {path: names_used(path) for path in FILES}
ALL = set().union(*USED.values())


def test_the_walk_sees_the_names():
    assert {"ops.Conv2D", "nn.Dense", "nn.Adam", "amp.all_finite", "ms.jit", "ops.add", "ms.value_and_grad",
            "ops.flash_attention_score", "ms.Tensor"} <= ALL
    assert platforms("ops.Square") == platforms("ops.Conv2D") == DEVICES and platforms("ms.Tensor") is None


@pytest.mark.parametrize("name", sorted(ALL - NOT_ON_A_DEVICE - EXCEPTIONS.keys()))
def test_an_operator_is_documented_for_every_device(name):
    assert platforms(name) is not None, f"{name} does not say where it works: operator or not?"
    assert platforms(name) >= DEVICES, f"{name} works on {', '.join(sorted(platforms(name)))} only"


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_used_is_one_and_is_guarded(name):
    where, guard = EXCEPTIONS[name]
    assert platforms(name) == where
    users = [path for path in FILES if name in USED[path]]
    assert users, f"{name} is not used any more"
    for path in users:
        assert guard in path.read_text(), f"{path} uses {name} without {guard}"


def test_nothing_is_listed_as_no_operator_that_is_one_or_is_not_used():
    assert ALL >= NOT_ON_A_DEVICE, f"not used any more: {NOT_ON_A_DEVICE - ALL}"
    for name in NOT_ON_A_DEVICE:
        assert not platforms(name), f"{name} states its platforms"


def test_files_with_operators_for_cpus_ask_for_their_library():
    name, guard = CPU_LIBRARY
    users = [path for path in FILES if name in USED[path]]
    assert len(users) >= 4
    for path in users:
        assert guard in path.read_text(), path


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
@pytest.mark.parametrize("make", [
    lambda: Unet(dim=8, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=4, block="rms"),
    lambda: Unet(dim=8, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=4, block="group"),
    lambda: DDPMUnet(dim=8, dim_mults=(1, 2), channels=1, norm_groups=4),
    lambda: DDPMUnet(dim=8, dim_mults=(1, 2), channels=1, norm_groups=4, resblock_updown=True, use_scale_shift_norm=True),
], ids=["rms", "group", "ddpm", "adm"])
def test_a_network_built_on_a_device_holds_no_operator_of_the_cpu_library(monkeypatch, device, make):
    def native(network):
        return [primitive for _, cell in network.cells_and_names() for primitive in vars(cell).get("_primitives", {}).values()
                if isinstance(primitive, ops.Custom)]

    assert bool(native(make())) == bool(runtime.native_library())
    for module in (runtime, runtime.devices):
        monkeypatch.setattr(module, "device_target", lambda: device)
    assert runtime.native_library() is None and not native(make())
