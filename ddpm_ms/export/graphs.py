"""The denoiser as a graph: MINDIR for MindSpore and MindSpore Lite, ONNX for everybody else.

A graph is static, so there is one file for each batch size, and beside them ``denoiser.json``: what goes in, what comes out, and
the process that a sampler needs. The network is built anew of `ddpm_ms.runtime.portable` parts; what was written is read back and
held against the network that the run samples with.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ddpm_ms import runtime
from ddpm_ms.checkpoints import load_diffusion
from ddpm_ms.errors import EvaluationError, InputError, needed
from ddpm_ms.export.trained import Target, Trained
from ddpm_ms.gaussian_diffusion import GaussianDiffusion

Arrays = dict[str, np.ndarray]
DESCRIPTION, INPUTS, OUTPUT = "denoiser.json", ("x", "time", "x_self_cond", "classes"), "output"
TOLERANCE = 1e-4  # of the largest number that comes out, and at least of 1


class Denoiser(nn.Cell):
    """A network with those inputs alone that it has: x, time, then x_self_cond and classes where it takes them."""

    def __init__(self, diffusion: GaussianDiffusion) -> None:
        super().__init__()
        self.network = diffusion.model
        self.self_condition, self.labels = bool(diffusion.self_condition), bool(diffusion.num_classes)

    def construct(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:  # noqa: D102  what the network's own does
        if self.self_condition and self.labels:
            return self.network(x, time, others[0], others[1])
        if self.self_condition:
            return self.network(x, time, others[0])
        if self.labels:
            return self.network(x, time, None, others[0])
        return self.network(x, time)


class Mindir:
    """What ``mindspore.export`` writes; it computes exactly what the `Denoiser` computes."""

    ending = ".mindir"

    def save(self, denoiser: Denoiser, inputs: Arrays, path: str) -> None:
        """Write the graph for inputs of these shapes."""
        ms.export(denoiser, *map(Tensor, inputs.values()), file_name=path, file_format="MINDIR")

    def outputs(self, path: str, inputs: Arrays) -> np.ndarray:
        """What the graph in a file says. Where the weights are more than a gigabyte, MindSpore puts them beside it and calls it
        otherwise."""
        split = path.replace(self.ending, f"_graph{self.ending}")
        graph = nn.GraphCell(ms.load(split if Path(split).exists() else path))
        return graph(*map(Tensor, inputs.values())).asnumpy()


class Onnx:
    """What MindSpore's exporter of 2.10 writes, checked by onnx, computed by ONNX Runtime on a CPU."""

    ending = ".onnx"

    def __init__(self) -> None:
        if not hasattr(ms, "onnx"):
            raise InputError("this MindSpore writes no ONNX, allowed: 2.10 or later")
        with needed("onnx", "exported graphs are checked by onnx"):
            import onnx
        with needed("onnxruntime", "exported graphs are compared with the network by onnxruntime"):
            import onnxruntime
        self.check_model, self.session = onnx.checker.check_model, onnxruntime.InferenceSession

    def save(self, denoiser: Denoiser, inputs: Arrays, path: str) -> None:
        """Write the graph for inputs of these shapes; `InputError` where it has an operator that MindSpore cannot say."""
        try:
            ms.onnx.export(denoiser, *map(Tensor, inputs.values()), file_name=path, input_names=list(inputs),
                           output_names=[OUTPUT])
        except (RuntimeError, TypeError, ValueError) as error:
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"the network {type(denoiser.network).__name__} cannot be written as ONNX: {why[0]}") from None
        self.check_model(path, full_check=True)

    def outputs(self, path: str, inputs: Arrays) -> np.ndarray:
        """What the graph in a file says."""
        return self.session(path, providers=["CPUExecutionProvider"]).run([OUTPUT], inputs)[0]


def write(form: type[Mindir] | type[Onnx], trained: Trained, path: Path, *, batch_sizes: Sequence[int] = (1,)) -> str:
    """The folder with ``batch_1.onnx`` and the like, and `DESCRIPTION`."""
    files = form()
    diffusion, _ = load_diffusion(trained.checkpoint.path, ema=trained.ema)
    with runtime.portable():
        denoiser = Denoiser(load_diffusion(trained.checkpoint.path, ema=trained.ema)[0]).set_train(False)
    path.mkdir()
    with tempfile.TemporaryDirectory() as plain:
        # Of the path to a file MindSpore takes letters without accents, and no blanks.
        link = Path(plain, "folder")
        link.symlink_to(path.absolute())
        for batch in batch_sizes:
            inputs, name = example(diffusion, batch), f"{link}/batch_{batch}{files.ending}"
            files.save(denoiser, inputs, name)
            check(files.outputs(name, inputs), expected(diffusion, inputs))
    about = description(trained, diffusion)
    (path / DESCRIPTION).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    _let_be_read(path)
    return f"the denoiser in batches of {', '.join(map(str, batch_sizes))} ({', '.join(about['inputs'])}), see {DESCRIPTION}"


def _let_be_read(folder: Path) -> None:
    """By whom the umask lets; MindSpore keeps others from reading."""
    folder_mode, file_mode = folder.stat().st_mode, (folder / DESCRIPTION).stat().st_mode
    for path in folder.rglob("*"):
        path.chmod(folder_mode if path.is_dir() else file_mode)


def example(diffusion: GaussianDiffusion, batch: int) -> Arrays:
    """Inputs of a network, by name, in the order in which `Denoiser` takes them."""
    random, shape = np.random.default_rng(0), (batch, diffusion.channels, *diffusion.image_size)
    inputs = {"x": random.standard_normal(shape, np.float32),
              "time": random.integers(0, diffusion.num_timesteps, batch).astype(np.int32)}
    if diffusion.self_condition:
        inputs["x_self_cond"] = random.uniform(-1, 1, shape).astype(np.float32)
    if diffusion.num_classes:
        inputs["classes"] = random.integers(0, diffusion.num_classes + 1, batch).astype(np.int32)
    return inputs


def expected(diffusion: GaussianDiffusion, inputs: Arrays) -> np.ndarray:
    """What the network itself says, operator by operator."""
    given = [Tensor(inputs[name]) if name in inputs else None for name in INPUTS]
    return diffusion.model(*given).asnumpy()


def check(found: np.ndarray, wanted: np.ndarray) -> None:
    """Raise `EvaluationError` unless both are the same up to rounding."""
    error = np.abs(found - wanted).max() if found.shape == wanted.shape else np.inf
    if not error <= TOLERANCE * max(1.0, np.abs(wanted).max()):
        raise EvaluationError(f"the graph that MindSpore wrote differs from the network by {error:.2g}, allowed: {TOLERANCE:g}; "
                              "nothing was exported")


def description(trained: Trained, diffusion: GaussianDiffusion) -> dict[str, Any]:
    """What a program needs that samples with the graph."""
    c, sampling, shape = trained.config.diffusion, trained.config.sampling, ["batch", diffusion.channels, *diffusion.image_size]
    meanings = {
        "x": ("float32", shape, "noisy images; clean ones are in [-1, 1]"),
        "time": ("int32", ["batch"], f"0, the least noisy step, to {c.timesteps - 1}"),
        "x_self_cond": ("float32", shape, "the last estimate of the clean images, or zeros"),
        "classes": ("int32", ["batch"], f"0 to {diffusion.num_classes}, which stands for no class"),
    }
    outputs = "; then, in as many channels, -1 to 1 for the variance from the posterior's to beta, on a logarithmic scale"
    return {
        "inputs": {name: dict(zip(("type", "shape", "what"), meanings[name])) for name in example(diffusion, 1)},
        "output": {"type": "float32", "shape": ["batch", diffusion.model.out_dim, *diffusion.image_size],
                   "what": f"{c.objective}{outputs if diffusion.learned_variance else ''}"},
        "weights": str(trained), "objective": c.objective, "variance": trained.variance, "clip_x_start": sampling.clip_x_start,
        "class_names": trained.config.data.called(diffusion.num_classes) if diffusion.num_classes else None,
        "betas": trained.schedule.betas.tolist(),
    }


MINDIR = Target(functools.partial(write, Mindir))
ONNX = Target(functools.partial(write, Onnx))
