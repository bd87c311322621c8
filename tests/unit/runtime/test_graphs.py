"""How many graphs are compiled, and that the compiled functions see the same shapes in every step.

On an Ascend every further graph costs minutes and every dynamic shape much of the speed; both can be held on a CPU.
"""

import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from ddpm_ms import GaussianDiffusion, Trainer, runtime
from ddpm_ms.cli import drawing
from ddpm_ms.config import SamplingConfig

IMAGES = np.random.default_rng(0).uniform(0, 1, (7, 4, 4)).astype(np.float32)
# Where ``ms.jit`` lives differs between versions of MindSpore.
API = sys.modules[ms.jit.__module__]


class Graphs:
    """Calls of compiled functions: ``calls`` (function, description of its arguments), ``compiled`` those that made a graph."""

    def __init__(self):
        self.calls, self.compiled = [], []

    def count(self, name):
        return sum(function == name for function, _ in self.compiled)

    def arguments(self, name):
        return {described for function, described in self.calls if function == name}


@pytest.fixture
def graphs(monkeypatch):
    seen, compile_ = Graphs(), API._JitExecutor.compile

    def describe(argument):
        return (argument.shape, str(argument.dtype)) if isinstance(argument, Tensor) else argument

    def recording(executor, name, *arguments, **options):
        seen.calls.append((name, tuple(map(describe, arguments))))
        before = set(API.ms_compile_cache)
        phase = compile_(executor, name, *arguments, **options)
        if phase not in before:
            seen.compiled.append(seen.calls[-1])
        return phase

    monkeypatch.setattr(API._JitExecutor, "compile", recording)
    return seen


class Pixelwise(nn.Cell):
    """The smallest network that has everything a process asks for."""

    channels = 1

    def __init__(self, self_condition=False):
        super().__init__()
        self.self_condition = self_condition
        self.weight = Parameter(Tensor(np.ones((1, 1, 1, 1)), ms.float32), name="weight")

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return x * self.weight if x_self_cond is None else (x + x_self_cond) * self.weight


def train(model, folder, **changes):
    diffusion = GaussianDiffusion(model, image_size=4, timesteps=20)
    keywords = dict(train_batch_size=3, train_num_steps=6, save_and_sample_every=3, log_every=3, num_samples=0,
                    ema_update_every=2, results_folder=folder)
    Trainer(diffusion, IMAGES, **{**keywords, **changes}).train()
    return diffusion


def test_the_counter_counts(graphs):
    class Twice(nn.Cell):
        def twice(self, x):
            return ops.add(x, x)

    cell = Twice()
    twice = ms.jit(cell.twice)
    for size in (1, 1, 2, 1):
        twice(Tensor(np.ones(size), ms.float32))
    assert graphs.count("twice") == 2 and len(graphs.calls) == 4 and len(graphs.arguments("twice")) == 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_compiles_two_graphs_and_sees_one_shape(graphs, tmp_path, accumulate):
    # Six steps of three of seven images: batches cross the ends of epochs.
    train(Pixelwise(), tmp_path, gradient_accumulate_every=accumulate)
    assert (graphs.count("_gradient"), graphs.count("_update"), len(graphs.compiled)) == (1, 1, 2)
    assert len(graphs.arguments("_gradient")) == len(graphs.arguments("_update")) == 1
    assert [name for name, _ in graphs.calls].count("_gradient") == 6 * accumulate


@pytest.mark.parametrize("network", ["pixelwise", pytest.param("unet", marks=pytest.mark.slow)])
def test_self_conditioning_compiles_one_gradient_more_and_samples_with_one_graph(graphs, tiny_unet, tmp_path, network):
    model = Pixelwise(self_condition=True) if network == "pixelwise" else tiny_unet(self_condition=True, dim_mults=(1,))
    diffusion = train(model, tmp_path, num_samples=2, sampling=SamplingConfig(steps=2))
    counts = [graphs.count(name) for name in ("_gradient", "_update", "_network")]
    assert counts == [2, 1, 1] and len(graphs.compiled) == 4
    assert len(graphs.arguments("_gradient")) == 2  # a True and a False
    # Once more, by other ways: nothing is compiled.
    for sampler in ("ddpm", "unipc"):
        diffusion.sample(2, sampler=sampler, steps=3, seed=1)
    assert len(graphs.compiled) == 4


def test_sampling_compiles_one_graph_per_shape(graphs):
    diffusion = GaussianDiffusion(Pixelwise(), image_size=4, timesteps=20)
    for batch in (2, 2, 3, 2):
        diffusion.sample(batch, steps=2, seed=0)
    assert graphs.count("_network") == len(graphs.compiled) == 2


def test_the_last_batch_of_the_command_line_has_the_shape_of_the_others(graphs):
    diffusion = GaussianDiffusion(Pixelwise(), image_size=4, timesteps=20)
    draw_batch = drawing.from_noise(diffusion.pipeline, SamplingConfig(steps=2))
    images = drawing.draw(draw_batch, 5, 2, runtime.Runtime("CPU", 0, 1, "a test")).images
    assert images.shape == (5, 1, 4, 4) and len(graphs.calls) == 3 * 2
    assert len(graphs.compiled) == len(graphs.arguments("_network")) == 1
