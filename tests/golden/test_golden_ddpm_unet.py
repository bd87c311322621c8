"""Our DDPMUnet computes what diffusers' UNet2DModel computes, given the same weights, and has the same gradients."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from ddpm_unet_cases import CASES, CLASSES, PROJECTIONS, TIMES, numbers, projections, weight
from mindspore import Tensor

from ddpm_ms import DDPMUnet
from ddpm_ms.interop import ddpm_unet_from_diffusers

GOLDEN = np.load(Path(__file__).parent / "diffusers_unet.npz")
OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def described(case):
    """Name to shape of the weights of diffusers."""
    return {name: tuple(map(int, shape.split())) for name, shape in
            zip(GOLDEN[f"{case}.names"].tolist(), GOLDEN[f"{case}.shapes"].tolist())}


def loaded(case):
    model = DDPMUnet(**CASES[case][1]).set_train(False)
    weights = ddpm_unet_from_diffusers({name: weight(name, shape) for name, shape in described(case).items()})
    shapes = {name: parameter.shape for name, parameter in model.parameters_and_names()}
    assert shapes == {name: array.shape for name, array in weights.items()}
    for name, parameter in model.parameters_and_names():
        parameter.set_data(Tensor(weights[name], ms.float32))
    return model


@pytest.mark.parametrize("case", CASES)
def test_the_network_and_its_gradients_equal_those_of_diffusers(case):
    model, shapes = loaded(case), described(case)
    x = Tensor(numbers("x", (len(TIMES), 3, *CASES[case][2])), ms.float32)
    time, classes = Tensor(TIMES, ms.int32), Tensor(CLASSES, ms.int32) if model.num_classes else None
    direction = Tensor(numbers("direction", GOLDEN[f"{case}.output"].shape), ms.float32)

    def loss(x):
        output = model(x, time, None, classes)
        return (output * direction).sum(), output

    (_, output), gradients = ms.value_and_grad(loss, None, model.trainable_params(), has_aux=True)(x)
    np.testing.assert_allclose(output.asnumpy(), GOLDEN[f"{case}.output"], rtol=1e-3, atol=1e-4)

    # What is known of each gradient is known of a tensor of diffusers; some are parts of one of ours.
    number = {name: k + 1 for k, name in enumerate(shapes)}
    parts = ddpm_unet_from_diffusers({name: np.full(shape, number[name]) for name, shape in shapes.items()})
    directions = [ddpm_unet_from_diffusers({name: projections(name, shape)[k] for name, shape in shapes.items()})
                  for k in range(PROJECTIONS)]
    products, lengths = GOLDEN[f"{case}.products"], GOLDEN[f"{case}.lengths"]
    for parameter, gradient in zip(model.trainable_params(), gradients):
        name, found = parameter.name, gradient.asnumpy().astype(np.float64)
        theirs = np.setdiff1d(parts[name], 0) - 1
        length = np.linalg.norm(lengths[theirs])
        assert abs(np.linalg.norm(found) - length) < 1e-3 * length + 1e-4, name
        ours = [np.sum(found * directions[k][name]) for k in range(PROJECTIONS)]
        np.testing.assert_allclose(ours, products[theirs].sum(0), rtol=0, atol=1e-3 * length + 1e-4, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_diffusers_is_used_once_whatever_the_age_of_its_name(case):
    shapes = described(case)
    state = {name: np.full(shape, k + 1) for k, (name, shape) in enumerate(shapes.items())}
    ours = ddpm_unet_from_diffusers(state)
    found, counts = np.unique(np.concatenate([array.ravel() for array in ours.values()]), return_counts=True)
    used = dict(zip(found.tolist(), counts.tolist()))
    null_class = used.pop(0, 0)
    assert used == {k + 1: np.prod(shape) for k, shape in enumerate(shapes.values())}
    assert null_class == (shapes["class_embedding.weight"][1] if "class_embedding.weight" in shapes else 0)

    old = {}
    for name, array in state.items():
        for new_part, old_part in OLD_NAMES.items():
            name = name.replace(new_part, old_part)
        old[name] = array
    assert old.keys() != state.keys()
    again = ddpm_unet_from_diffusers(old)
    assert again.keys() == ours.keys() and all((again[name] == ours[name]).all() for name in ours)
