"""What a dry run says of arithmetic and memory, held against counts by hand."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from ddpm_ms import costs
from ddpm_ms.cli import main
from ddpm_ms.config import TrainingConfig
from ddpm_ms.models import SimpleUnet, TinyUnet
from ddpm_ms.models.attention import Attention, LinearAttention
from ddpm_ms.models.layers import conv


def convolution(low, high, kernel, pixels):
    """Of ``pixels`` results: a multiplication and an addition for every weight that leads to one."""
    return 2 * low * high * kernel**2 * pixels


def tiny(dim, pixels):
    """`TinyUnet` with dim_mults (1, 2) on grey images, term by term."""
    time = 2 * 100 * pixels
    down = convolution(2, dim, 3, pixels) + convolution(dim, dim, 3, pixels) + convolution(dim, 2 * dim, 4, pixels // 4)
    bottom = 2 * convolution(2 * dim, 2 * dim, 3, pixels // 4)
    up = convolution(2 * dim, 4 * dim, 1, pixels // 4) + convolution(2 * dim, dim, 3, pixels) + convolution(dim, dim, 3, pixels)
    return time + down + bottom + up + convolution(dim, 1, 3, pixels)


@pytest.mark.parametrize(("dim", "size"), [(8, (8, 8)), (4, (8, 12))])
def test_the_arithmetic_of_a_network_is_that_of_a_count_by_hand(dim, size):
    found = costs.count(TinyUnet(dim, size, dim_mults=(1, 2), channels=1), 1, size)
    assert found.flops == tiny(dim, size[0] * size[1])
    assert found.trained_flops == 3 * found.flops


class Alone(nn.Cell):
    """One part of a network as a network."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def construct(self, x, time):
        return self.part(x)


@pytest.mark.parametrize("kind", [Attention, LinearAttention])
def test_attention_is_counted_with_its_products_over_pixels_and_memory(kind):
    dim, heads, width, pixels, memory = 6, 2, 4, 16, 4
    found = costs.count(Alone(kind(dim, heads, width)), dim, (4, 4))
    hidden = heads * width
    around = 3 * convolution(dim, hidden, 1, pixels) + convolution(hidden, dim, 1, pixels)
    if kind is Attention:
        products = 2 * (2 * heads * width * pixels * (pixels + memory))
    else:
        products = 2 * heads * width * width * (pixels + memory) + 2 * heads * width * width * pixels
    assert found.flops == around + products


def test_the_arithmetic_is_the_same_whichever_form_of_an_operator_computes(tiny_unet, monkeypatch):
    native = costs.count(tiny_unet(), 1, (8, 8))
    monkeypatch.setattr("ddpm_ms.runtime.native_library", lambda: None)
    stock = costs.count(tiny_unet(), 1, (8, 8))
    assert native.flops == stock.flops and native.parameters == stock.parameters


class Added(nn.Cell):
    """A convolution that adds what another one makes, or the sum of the two."""

    self_condition = False

    def __init__(self, inside):
        super().__init__()
        self.inside, self.first, self.second = inside, conv(2, 2, 3), conv(2, 2, 1)

    def construct(self, x, time):
        return self.first(x, self.second(x)) if self.inside else self.first(x) + self.second(x)


def test_what_a_convolution_adds_is_not_kept():
    inside, outside = (costs.count(Added(inside), 2, (4, 4)) for inside in (True, False))
    assert inside == outside and inside.activations == 2 * 4 * 4  # x


class Layers(nn.Cell):
    """What keeps something for the backward pass, and what does not."""

    self_condition = True

    def __init__(self):
        super().__init__()
        self.first, self.act, self.second, self.dense = conv(1, 2, 3), nn.SiLU(), conv(2, 2, 1, 2, pad=0), nn.Dense(8, 3)
        self.same, self.reshape = nn.Identity(), ops.Reshape()

    def construct(self, x, time):
        x = self.same(self.second(self.act(self.first(x))))
        return self.dense(self.reshape(x, (1, 8)))


def test_what_the_backward_pass_needs_is_counted_once_whatever_it_is_called():
    found = costs.count(Layers(), 1, (4, 4))
    # The image, the input of SiLU, its output, and what becomes the input of the dense layer, which Identity had before.
    assert found.activations == 16 + 32 + 32 + 8
    assert found.flops == convolution(1, 2, 3, 16) + convolution(2, 2, 1, 4) + 2 * 8 * 3
    assert found.trained_flops == 3.5 * found.flops  # in half of the steps self-conditioning computes its estimate first
    weights = 2 * 9 + 2 + 4 + 2 + 24 + 3
    assert found.parameters == found.trainable == weights
    assert found.matrices == 0  # all are narrower than Muon's
    assert found.memory("muon") == found.memory("adam") == {
        "weights": 4 * weights, "gradients": 8 * weights, "optimizer": 8 * weights, "average": 4 * weights}


def test_muon_keeps_one_number_for_each_of_a_matrix():
    found = costs.count(Alone(nn.SequentialCell(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 20, 3))), 1, (4, 4))
    assert found.matrices == 16 * 20 * 9
    assert found.memory("adam")["optimizer"] - found.memory("muon")["optimizer"] == 4 * found.matrices


def test_counting_leaves_no_trace():
    before = nn.Cell.__call__, ops.Conv2D.__call__, ops.MatMul.__call__
    with pytest.raises(ValueError, match="no network"):
        costs.count(Broken(), 1, (4, 4))
    assert (nn.Cell.__call__, ops.Conv2D.__call__, ops.MatMul.__call__) == before
    assert "__call__" not in vars(ops.Conv2D)
    network = SimpleUnet(8, dim_mults=(1,), channels=1)
    image, step = ms.Tensor(np.ones((1, 1, 4, 4), np.float32)), ms.Tensor([3], ms.int32)
    expected = network(image, step).asnumpy()
    costs.count(network, 1, (4, 4))
    np.testing.assert_array_equal(network(image, step).asnumpy(), expected)


class Broken(nn.Cell):
    def construct(self, x, time):
        raise ValueError("no network")


@pytest.mark.parametrize(("settings", "step", "total", "optimizer", "activations"), [
    (dict(gradient_accumulate_every=4, train_num_steps=1000), "96 MFLOP per step (32 images), 96 GFLOP in 1,000 steps", "5.96 MB",
     "440 kB", "8 x 490 kB activations"),
    (dict(precision="fp16", recompute=True, train_num_epochs=3, optimizer="adam"), "24 MFLOP per step (8 images)", "4.36 MB",
     "800 kB", "8 x 245 kB activations (less: training.recompute)"),
])
def test_costs_are_said_of_an_image_a_step_and_the_run(settings, step, total, optimizer, activations):
    found = costs.Costs(flops=1_000_000, activations=122_500, parameters=100_000, trainable=100_000, matrices=90_000,
                        self_condition=False)
    assert costs.describe(found, TrainingConfig(train_batch_size=8, **settings)) == [
        "parameters: 100,000", f"arithmetic: 1 MFLOP per image forward, 3 MFLOP trained; {step}",
        f"memory: about {total} = 400 kB weights + 800 kB gradients + {optimizer} optimizer + 400 kB average + {activations}"]


def test_a_dry_run_says_what_the_recipe_costs(tmp_path, capsys):
    words = ["train", "--config", "digits", "--run-dir", str(tmp_path / "run"), "--dry-run", "--device", "CPU", "model.dim=8",
             "model.dim_mults=[1]"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for line in ("# parameters: ", "# arithmetic: ", "# memory: about "):
        assert f"\n{line}" in out
    assert not (tmp_path / "run").exists()
