"""Everything of a run that changes from step to step: what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.ops.muon import Muon
from ddpm_ms.runtime import Runtime, ranks
from ddpm_ms.training.ema import EMA
from ddpm_ms.training.loss_scale import LossScale
from ddpm_ms.training.timesteps import TimestepSampler


class TrainingState:
    """The state of a run and its ways into and out of a checkpoint.

    Args:
        model: the network.
        ema: its average.
        optimizer: Adam or `Muon` over the network's trainable parameters.
        timesteps: the sampler of noise levels.
        loss_scale: of mixed precision.
    """

    def __init__(self, model: nn.Cell, ema: EMA, optimizer: nn.Adam | Muon, timesteps: TimestepSampler,
                 loss_scale: LossScale) -> None:
        self.model, self.ema, self.optimizer, self.timesteps, self.loss_scale = model, ema, optimizer, timesteps, loss_scale
        self.step = 0
        self.skipped_steps = 0
        self.epoch_loss = [0.0, 0.0]  # sum of losses and number of images since the epoch began

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """File name to named arrays."""
        weights = _arrays(dict(self.model.parameters_and_names()))
        return {checkpoint.WEIGHTS: weights,
                checkpoint.EMA_WEIGHTS: {**weights, **_arrays(self.ema.parameters_by_name())},
                checkpoint.OPTIMIZER: {**_arrays(self._optimizer_parameters()), **self.timesteps.state()}}

    def numbers(self) -> dict[str, Any]:
        """What goes into state.json."""
        return {"ema_updates": self.step // self.ema.update_every, "loss_scale": dataclasses.asdict(self.loss_scale),
                "skipped_steps": self.skipped_steps, "epoch_loss": self.epoch_loss}

    def load(self, found: checkpoint.Checkpoint) -> None:
        """Take over a checkpoint of the same configuration.

        Raises:
            InputError: its arrays are not those of this network, or its numbers are none.
        """
        checkpoint.set_parameters(dict(self.model.parameters_and_names()), found.arrays(checkpoint.WEIGHTS), str(found.path))
        averaged, shadow = found.arrays(checkpoint.EMA_WEIGHTS), self.ema.parameters_by_name()
        checkpoint.set_parameters(shadow, {name: averaged[name] for name in shadow if name in averaged}, str(found.path))
        optimizer = found.arrays(checkpoint.OPTIMIZER)
        try:
            sampler = {name: optimizer.pop(name) for name in self.timesteps.state()}
            if any(sampler[name].shape != array.shape for name, array in self.timesteps.state().items()):
                raise ValueError("another number of timesteps")
            self.timesteps.restore(sampler)
            self._set_numbers({**found.state, "step": found.step})
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoint.DamagedCheckpoint(f"checkpoint {found.path}: its state is damaged ({error!r})") from None
        checkpoint.set_parameters(self._optimizer_parameters(), optimizer, str(found.path))

    def share(self, runtime: Runtime) -> None:
        """Bring every rank to the state of rank 0, and make sure of it.

        Raises:
            RuntimeError: the ranks' parameters differ even then: the communication between them is broken.
        """
        if runtime.world == 1:
            return
        sampler = {name: array.tolist() for name, array in self.timesteps.state().items()}
        told = json.loads(ranks.broadcast_text(
            json.dumps({**self.numbers(), "step": self.step, "sampler": sampler}), runtime))
        self._set_numbers(told)
        self.timesteps.restore({name: np.asarray(told["sampler"][name], array.dtype)
                                for name, array in self.timesteps.state().items()})
        ranks.broadcast_parameters(self._parameters(), runtime)
        digest = hashlib.sha256(b"".join(p.asnumpy().tobytes() for p in self._parameters())).digest()
        digests = ranks.gather(np.frombuffer(digest, np.int32)[None], runtime)
        if (digests != digests[0]).any():
            raise RuntimeError("the ranks hold different parameters after the broadcast from rank 0")

    def _set_numbers(self, told: dict[str, Any]) -> None:
        self.step, self.skipped_steps = int(told["step"]), int(told["skipped_steps"])
        scale = told["loss_scale"]
        self.loss_scale = LossScale(float(scale["value"]), int(scale["good_steps"]), bool(scale["dynamic"]), int(scale["window"]))
        losses, images = told["epoch_loss"]
        self.epoch_loss = [float(losses), float(images)]

    def _parameters(self) -> list[ms.Parameter]:
        return [*self.model.get_parameters(), *self.ema.shadow, *self._optimizer_parameters().values()]

    def _optimizer_parameters(self) -> dict[str, ms.Parameter]:
        """The optimizer's state under names that follow from the network's."""
        name_of = {id(weight): name for name, weight in zip(self.ema.names, self.ema.weights)}
        adam, momentum = self.optimizer, {}
        if isinstance(adam, Muon):
            momentum = {f"momentum.{name_of[id(weight)]}": p for weight, p in zip(adam.matrices, adam.momentum)}
            adam = adam.adam
        moments = {f"{kind}.{name_of[id(weight)]}": moment
                   for kind, group in (("moment1", adam.moment1), ("moment2", adam.moment2))
                   for weight, moment in zip(adam.parameters, group)}
        return {**momentum, **moments, "beta1_power": adam.beta1_power, "beta2_power": adam.beta2_power}


def _arrays(parameters: dict[str, ms.Parameter]) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in parameters.items()}
