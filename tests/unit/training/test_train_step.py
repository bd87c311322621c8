"""The optimizer step: accumulation, clipping, overflow, EMA."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ddpm_ms import EMA, GaussianDiffusion
from ddpm_ms.data import ArrayDataset
from ddpm_ms.errors import InputError
from ddpm_ms.models.recomputation import set_recompute
from ddpm_ms.training.batches import BatchSource
from ddpm_ms.training.learning_rate import learning_rate
from ddpm_ms.training.loss_scale import LossScale
from ddpm_ms.training.train_step import TrainStep


class Linear(nn.Cell):
    """The smallest network with the right contract: one gain and one bias for all pixels."""

    channels, out_dim = 1, 1

    def __init__(self):
        super().__init__()
        self.gain = Parameter(Tensor(np.full((1, 1, 1, 1), 0.5), ms.float32), name="gain")
        self.bias = Parameter(Tensor(np.full((1, 1, 1, 1), 0.1), ms.float32), name="bias")

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return x * self.gain + self.bias


def scalar(value):
    return Tensor(value, ms.float32)


def make_step(network=None, **keywords):
    network = network or Linear()
    diffusion = GaussianDiffusion(network, image_size=4)
    optimizer = nn.Adam(network.trainable_params(), 1e-3, 0.9, 0.99)
    ema = EMA(network, 0.5, 1)
    return TrainStep(diffusion, optimizer, ema, **keywords).set_train(True)


def source(batch_size, accumulate_every, rank=0, world=1, count=37):
    images = np.random.default_rng(0).uniform(0, 1, (count, 4, 4)).astype(np.float32)
    return BatchSource(ArrayDataset(images, 1), batch_size, accumulate_every, seed=5, rank=rank, world=world)


def times_of(batch):
    """A noise level for each image of the micro-batch, the same one however the step is cut up."""
    return (np.arange(batch.samples.start, batch.samples.stop) * 83 % 1000).astype(np.int32)


def run(step, batches, scale=1.0, rate=1e-2, ema_rate=0.5):
    for b in batches:
        step.gradient(Tensor(b.images), Tensor(times_of(b)), Tensor(b.noise), False, None, None, None, scalar(scale))
    finite, norm, _ = step.update(scalar(rate), scalar(ema_rate), scalar(scale))
    return bool(finite.asnumpy()), float(norm.asnumpy())


def values(parameters):
    return np.array([float(p.asnumpy().squeeze()) for p in parameters])


@pytest.mark.parametrize("k", [2, 3, 4])
def test_k_micro_batches_of_b_equal_one_batch_of_k_times_b(k):
    whole, parts = make_step(), make_step(accumulate_every=k)
    for n in range(3):
        _, norm_whole = run(whole, source(3 * k, 1).step(n))
        _, norm_parts = run(parts, source(3, k).step(n))
        assert norm_parts == pytest.approx(norm_whole, rel=1e-4)
    np.testing.assert_allclose(values(parts.weights), values(whole.weights), rtol=1e-5)
    np.testing.assert_allclose(values(parts.ema.shadow), values(whole.ema.shadow), rtol=1e-5)


def test_the_loss_scale_changes_nothing_but_the_range():
    plain, scaled = make_step(), make_step()
    for n in range(2):
        assert run(plain, source(4, 1).step(n))[1] == pytest.approx(run(scaled, source(4, 1).step(n), scale=1024)[1], rel=1e-5)
    np.testing.assert_allclose(values(scaled.weights), values(plain.weights), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_a_step_that_overflows_changes_nothing_and_the_next_one_is_clean(k):
    step, undisturbed = make_step(accumulate_every=k), make_step(accumulate_every=k)
    before = values(step.weights), values(step.ema.shadow), values(step.optimizer.moment1)
    finite, _ = run(step, source(4, k).step(0), scale=math.inf)
    assert not finite
    for was, is_now in zip(before, (step.weights, step.ema.shadow, step.optimizer.moment1)):
        np.testing.assert_array_equal(values(is_now), was)
    assert run(step, source(4, k).step(0))[0] and run(undisturbed, source(4, k).step(0))[0]
    np.testing.assert_array_equal(values(step.weights), values(undisturbed.weights))


def test_the_gradient_is_clipped_to_the_global_norm():
    # Adam's second moment after one step shows the gradient that it was given.
    step = make_step(max_grad_norm=0.01)
    _, norm = run(step, source(4, 1).step(0))
    assert norm > 0.01
    given = np.sqrt(values(step.optimizer.moment2) / (1 - 0.99))
    assert np.sqrt((given**2).sum()) == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_is_decoupled_from_the_gradient():
    plain, decayed = make_step(), make_step(weight_decay=0.5)
    run(plain, source(4, 1).step(0), rate=0.1)
    run(decayed, source(4, 1).step(0), rate=0.1)
    shrink = np.array([0.5, 0.1]) * 0.1 * 0.5
    np.testing.assert_allclose(values(decayed.weights), values(plain.weights) - shrink, rtol=1e-5)


@pytest.mark.parametrize(("sigma_rel", "every"), [(0.05, 1), (0.1, 1), (0.28, 1), (0.1, 5)])
def test_the_average_has_the_profile_of_a_power_function_whatever_the_length(sigma_rel, every):
    ema = EMA(Linear(), sigma_rel=sigma_rel, update_every=every)
    for steps in (400, 4000):
        weights = np.zeros(steps + 1)  # with which the network of each step counts
        for step in range(1, steps + 1):
            rate = ema.rate_at(step)
            weights *= 1 - rate
            weights[step] += rate
        assert weights.sum() == pytest.approx(1)
        place = np.arange(steps + 1) / steps
        mean = (weights * place).sum()
        assert mean == pytest.approx((ema.gamma + 1) / (ema.gamma + 2), abs=2 * every / steps)
        assert np.sqrt((weights * (place - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=0.03 * every)


def test_the_average_is_the_network_itself_after_its_first_update():
    assert [EMA(Linear()).rate_at(1), EMA(Linear(), update_every=3).rate_at(3)] == [1, 1]
    assert EMA(Linear(), decay=0.995).update_every == 10
    assert EMA(Linear(), decay=0.9, update_every=1).rate_at(10**9) == pytest.approx(0.1)


@pytest.mark.parametrize("sigma_rel", [0, 0.009, 0.29, -1])
def test_a_profile_that_no_power_function_has_is_refused(sigma_rel):
    with pytest.raises(InputError, match=f"ema_sigma_rel is {float(sigma_rel)}, allowed: 0.01 to 0.28"):
        EMA(Linear(), sigma_rel=sigma_rel)


def test_ema_follows_its_closed_form_and_only_when_due():
    network = Linear()
    ema = EMA(network, decay=0.9, update_every=3)
    rates = [ema.rate_at(step) for step in range(1, 10)]
    assert [rate > 0 for rate in rates] == [False, False, True] * 3
    assert ema.decay_at(1) == pytest.approx(1 - 2 ** (-2 / 3)) and ema.decay_at(10**6) == 0.9
    network.gain.set_data(Tensor(np.full((1, 1, 1, 1), 2.0), ms.float32))
    ema(scalar(0.25))
    np.testing.assert_allclose(values(ema.shadow), [0.5 + 0.25 * 1.5, 0.1], rtol=1e-6)
    with ema.applied():
        np.testing.assert_allclose(values(network.trainable_params()), [0.875, 0.1], rtol=1e-6)
    np.testing.assert_allclose(values(network.trainable_params()), [2.0, 0.1], rtol=1e-6)


def test_a_samples_data_and_noise_do_not_depend_on_accumulation_or_ranks():
    def sorted_rows(batches):
        rows = [(p, t, image.tobytes(), noise.tobytes()) for b in batches
                for p, t, image, noise in zip(b.positions, times_of(b), b.images, b.noise)]
        return sorted(rows)

    one = sorted_rows(source(12, 1).step(4))
    assert sorted_rows(source(3, 4).step(4)) == one
    two_ranks = [b for rank in (0, 1) for b in source(2, 3, rank, 2).step(4)]
    assert sorted_rows(two_ranks) == one
    assert sorted_rows(source(12, 1).step(5)) != one


def test_every_epoch_shows_every_image_once_in_another_order():
    data = source(5, 1, count=10).dataset
    epochs = [data.indices(range(e * 10, e * 10 + 10), seed=5) for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and data.indices(range(10), seed=6) != epochs[0]


def test_dropout_masks_are_a_function_of_the_key_and_look_random(tiny_unet):
    from ddpm_ms.models.layers import Dropout

    dropout = Dropout(0.25, 64, layer=1)
    ones = Tensor(np.ones((4, 64, 16, 16), np.float32))
    key = Tensor(np.array([1.1, 1.5, 1.9, 1.1], np.float32))
    masks = dropout(ones, key).asnumpy()
    np.testing.assert_array_equal(masks[0], masks[3])
    np.testing.assert_array_equal(masks, dropout(ones, key).asnumpy())
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / 0.75)}
    dropped = (masks[:3] == 0).reshape(3, 64, -1).astype(float)
    assert abs(dropped.mean() - 0.25) < 0.01
    assert abs(dropped.mean((0, 1)) - 0.25).max() < 0.15 and abs(dropped.mean((0, 2)) - 0.25).max() < 0.08
    together = np.corrcoef(dropped.transpose(1, 0, 2).reshape(64, -1))  # channels drop independently of each other
    assert abs(together[~np.eye(64, dtype=bool)]).mean() < 0.05
    images = np.corrcoef(dropped.reshape(3, -1))
    assert abs(images[~np.eye(3, dtype=bool)]).max() < 0.05
    assert (Dropout(0.25, 64, layer=2)(ones, key).asnumpy() != masks).any()


def test_learning_rate_warms_up_and_then_follows_its_schedule():
    rates = [learning_rate(s, 1.0, "cosine", 4, 14) for s in range(14)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[9] == pytest.approx(0.5) and rates == rates[:5] + sorted(rates[5:], reverse=True)
    assert learning_rate(99, 0.3, "constant", 4, 14) == 0.3


def test_loss_scale_halves_on_overflow_and_doubles_after_a_window():
    scale = LossScale(8.0, dynamic=True, window=2)
    scale.adjust(False)
    assert scale.value == 4
    scale.adjust(True)
    scale.adjust(True)
    assert (scale.value, scale.good_steps) == (8, 0)
    fixed = LossScale()
    fixed.adjust(False)
    assert fixed.value == 1


def test_compiled_and_pynative_steps_agree(monkeypatch):
    graph = make_step()
    monkeypatch.setattr("ddpm_ms.runtime.graphs._mode", "pynative")
    eager = make_step()
    assert eager.gradient == eager._gradient
    for n in range(2):
        run(graph, source(4, 1).step(n))
        run(eager, source(4, 1).step(n))
    np.testing.assert_allclose(values(eager.weights), values(graph.weights), rtol=1e-5)


def test_the_learning_rate_of_the_call_is_the_one_that_is_used():
    still, slow, fast = make_step(), make_step(), make_step()
    start = values(still.weights)
    for step, rate in ((still, 0.0), (slow, 0.01), (fast, 0.03)):
        run(step, source(4, 1).step(0), rate=rate)
    np.testing.assert_array_equal(values(still.weights), start)
    # Adam's first step is the rate times the gradient's sign.
    np.testing.assert_allclose(abs(values(slow.weights) - start), 0.01, rtol=1e-3)
    np.testing.assert_allclose(abs(values(fast.weights) - start), 0.03, rtol=1e-3)


def test_labels_follow_their_images_and_are_hidden_as_often_as_asked():
    images = np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1) / 50 * np.ones((50, 1, 4, 4), np.float32)
    data = ArrayDataset(images, 1, labels=np.arange(50) % 7)

    def batches(hide):
        made = BatchSource(data, 40, 1, seed=5, num_classes=7, label_dropout=hide)
        return [made.step(n)[0] for n in range(25)]

    for batch in batches(0.0):
        np.testing.assert_array_equal(batch.classes, np.round(batch.images[:, 0, 0, 0] * 50).astype(int) % 7)
    hidden = np.concatenate([batch.classes for batch in batches(0.3)]) == 7
    assert abs(hidden.mean() - 0.3) < 0.05
    assert source(3, 1).step(0)[0].classes is None


def test_recomputing_activations_changes_no_gradient(tiny_unet):
    found = []
    for recompute in (False, True):
        network = tiny_unet(dim_mults=(1,))
        if recompute:
            set_recompute(network)
        step = make_step(network)
        run(step, source(4, 1).step(0), rate=0.0, ema_rate=0.0)
        found.append([a.asnumpy() for a in step.accumulators])
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*found))
    assert any(np.abs(a).max() > 1e-3 for a in found[0])
    with pytest.raises(InputError, match="recompute is True, allowed for this network: False"):
        set_recompute(Linear())
