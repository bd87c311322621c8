"""A network of weights alone, for tests of what updates them."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from ddpm_ms.training.loss_scale import LossScale
from ddpm_ms.training.state import TrainingState
from ddpm_ms.training.timesteps import TimestepSampler


class Network(nn.Cell):
    """Weights, and nothing that uses them."""

    def __init__(self, shapes):
        super().__init__()
        random = np.random.default_rng(0)
        self.tensors = ParameterTuple([Parameter(Tensor(random.standard_normal(shape), ms.float32), name=f"w{i}")
                                       for i, shape in enumerate(shapes)])


class Diffusion(nn.Cell):
    def __init__(self, model):
        super().__init__()
        self.model = model


def saved(step):
    """Name to array, as in a checkpoint."""
    state = TrainingState(step.diffusion.model, step.ema, step.optimizer, TimestepSampler("uniform", 10, 0), LossScale())
    return {f"{file}/{name}": array.copy() for file, arrays in state.arrays().items() for name, array in arrays.items()}
