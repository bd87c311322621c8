"""`GaussianDiffusion`: the forward process, the training loss, and sampling around any network."""

from __future__ import annotations

import secrets
from typing import Callable, NamedTuple, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import rng, runtime
from ddpm_ms.diffusion.loss_weights import min_snr_weight, p2_weight
from ddpm_ms.diffusion.samplers import SAMPLERS, sampling_steps
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.errors import InputError, check_choice, check_range

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
LOSSES = ("l1", "l2", "huber")
VARIANCES = ("fixed_small", "fixed_large")


class ModelPrediction(NamedTuple):
    """Two views of one network output, each (B, C, H, W)."""

    pred_noise: Tensor
    pred_x_start: Tensor


class GaussianDiffusion(nn.Cell):
    """Gaussian diffusion over images (DDPM, arXiv:2006.11239).

    Args:
        model: network (x, t, x_self_cond, classes, dropout_key) -> (B, C, H, W), see `ddpm_ms.Unet`.
        image_size: pixels, or (height, width).
        timesteps: T, length of the process.
        sampling_timesteps: default number of sampling steps; fewer than ``timesteps`` selects DDIM, as
            denoising-diffusion-pytorch does. Default: all steps of DDPM.
        objective: what the network predicts: "pred_noise", "pred_x0" or "pred_v" (arXiv:2202.00512, appendix D).
        beta_schedule: "linear", "cosine" or "sigmoid".
        loss_type: "l1", "l2" or "huber" (delta 1).
        p2_loss_weight_gamma: strength of P2 weighting (arXiv:2204.00227), 0 for none.
        p2_loss_weight_k: its constant, 1 in the paper.
        min_snr_loss_weight: weight every noise level by min(SNR, gamma) of the error of x0 (arXiv:2303.09556).
        min_snr_gamma: its gamma, 5 in the paper.
        ddim_sampling_eta: default ``eta`` of DDIM, 0 to 1.
        variance: of DDPM sampling: "fixed_small" (posterior) or "fixed_large" (beta, the paper's CIFAR-10 choice).
        auto_normalize: images are [0, 1] outside and [-1, 1] inside; False: they are [-1, 1] outside as well.

    Inputs:
        - **img** (B, C, H, W), float32, in [0, 1] (see ``auto_normalize``).
        - **t** (B,) int32 in [0, T), 0 the least noisy.
        - **noise** (B, C, H, W), standard normal.
        - **self_cond** bool: whether this call conditions the network on its own estimate of x0.
        - **classes**, **dropout_key**: handed to the network.

        ``diffusion(img)`` alone draws t, noise and the coin from the operating system; a training loop passes them, and
        then nothing is random.

    Outputs:
        Scalar float32, the mean loss.

    Raises:
        InputError: a keyword is not allowed or does not fit the model.
    """

    def __init__(
        self,
        model: nn.Cell,
        *,
        image_size: int | Sequence[int],
        timesteps: int = 1000,
        sampling_timesteps: int | None = None,
        objective: str = "pred_v",
        beta_schedule: str = "cosine",
        loss_type: str = "l2",
        p2_loss_weight_gamma: float = 0.0,
        p2_loss_weight_k: float = 1.0,
        min_snr_loss_weight: bool = False,
        min_snr_gamma: float = 5.0,
        ddim_sampling_eta: float = 0.0,
        variance: str = "fixed_small",
        auto_normalize: bool = True,
    ) -> None:
        hparams = {name: value for name, value in locals().items() if name not in ("self", "__class__", "model")}
        super().__init__()
        self.hparams = hparams
        self.objective = check_choice("objective", objective, OBJECTIVES)
        self.loss_type = check_choice("loss_type", loss_type, LOSSES)
        self.variance = check_choice("variance", variance, VARIANCES)
        self.ddim_sampling_eta = check_range("ddim_sampling_eta", ddim_sampling_eta, 0, 1)
        self.image_size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        if hasattr(model, "check_image_size"):
            model.check_image_size(*self.image_size)
        self.model = model
        self.channels = model.channels
        self.self_condition = getattr(model, "self_condition", False)
        self.auto_normalize = auto_normalize
        if getattr(model, "out_dim", self.channels) != self.channels:
            raise InputError(f"the network has {model.out_dim} output channels, allowed: its {self.channels} input channels")

        self.schedule = create_schedule(beta_schedule, timesteps)
        self.num_timesteps = timesteps
        self.sampling_timesteps = check_range("sampling_timesteps", sampling_timesteps or timesteps, 1, timesteps)
        # float64 to float32 once, here. Plain tensors, not parameters: never averaged, never saved.
        for name in ("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
                     "sqrt_recipm1_alphas_cumprod"):
            setattr(self, name, Tensor(getattr(self.schedule, name), ms.float32))
        weight = p2_weight(self.schedule.snr, p2_loss_weight_gamma, p2_loss_weight_k)
        if min_snr_loss_weight:
            weight = weight * min_snr_weight(self.schedule.snr, min_snr_gamma, objective)
        self.loss_weight = Tensor(weight, ms.float32)
        self.gather, self.reshape, self.cast = ops.Gather(), ops.Reshape(), ops.Cast()
        self.mean, self.square, self.abs = ops.ReduceMean(), ops.Square(), ops.Abs()
        self.minimum, self.maximum, self.stop_gradient = ops.Minimum(), ops.Maximum(), ops.stop_gradient
        self._denoise_graph: Callable | None = None

    # The forward process.

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (arXiv:2006.11239, equation 4)."""
        return (self._at(self.sqrt_alphas_cumprod, t) * x_start
                + self._at(self.sqrt_one_minus_alphas_cumprod, t) * noise)

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 such that `q_sample` with ``noise`` gives ``x_t``."""
        return (self._at(self.sqrt_recip_alphas_cumprod, t) * x_t
                - self._at(self.sqrt_recipm1_alphas_cumprod, t) * noise)

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """Noise such that `q_sample` of ``x_start`` gives ``x_t``."""
        return ((self._at(self.sqrt_recip_alphas_cumprod, t) * x_t - x_start)
                / self._at(self.sqrt_recipm1_alphas_cumprod, t))

    def predict_v(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """sqrt(abar_t) noise - sqrt(1 - abar_t) x0 (arXiv:2202.00512, appendix D)."""
        return (self._at(self.sqrt_alphas_cumprod, t) * noise
                - self._at(self.sqrt_one_minus_alphas_cumprod, t) * x_start)

    def predict_start_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """sqrt(abar_t) x_t - sqrt(1 - abar_t) v."""
        return (self._at(self.sqrt_alphas_cumprod, t) * x_t
                - self._at(self.sqrt_one_minus_alphas_cumprod, t) * v)

    # The network's output.

    def model_predictions(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None, classes: Tensor | None = None,
                          dropout_key: Tensor | None = None, clip_x_start: bool = True) -> ModelPrediction:
        """Noise and x0 as the network sees them in ``x`` (B, C, H, W) at ``t`` (B,).

        With ``clip_x_start`` x0 is kept in [-1, 1] and the noise is derived from the clipped x0, so that the two agree.
        """
        return ModelPrediction(*self._predict(x, t, x_self_cond, classes, dropout_key, clip_x_start))

    def _predict(self, x, t, x_self_cond, classes, dropout_key, clip_x_start):
        output = self.cast(self.model(x, t, x_self_cond, classes, dropout_key), ms.float32)
        if self.objective == "pred_noise":
            x_start = self.predict_start_from_noise(x, t, output)
        elif self.objective == "pred_x0":
            x_start = output
        else:
            x_start = self.predict_start_from_v(x, t, output)
        if clip_x_start:
            x_start = self.minimum(self.maximum(x_start, -1.0), 1.0)
        if self.objective == "pred_noise" and not clip_x_start:
            return output, x_start
        return self.predict_noise_from_start(x, t, x_start), x_start

    # Training.

    def losses(self, img: Tensor, t: Tensor, noise: Tensor, self_cond: bool = False, classes: Tensor | None = None,
               dropout_key: Tensor | None = None) -> Tensor:
        """Weighted loss of every image, (B,) float32; arguments as for the Cell."""
        x_start = img * 2.0 - 1.0 if self.auto_normalize else img
        x = self.q_sample(x_start, t, noise)
        x_self_cond = None
        if self_cond:
            # The same estimate, clipped the same way, that sampling will feed back (arXiv:2208.04202, section 3.2).
            estimate = self._predict(x, t, None, classes, dropout_key, True)
            x_self_cond = self.stop_gradient(estimate[1])
        output = self.cast(self.model(x, t, x_self_cond, classes, dropout_key), ms.float32)
        if self.objective == "pred_noise":
            target = noise
        elif self.objective == "pred_x0":
            target = x_start
        else:
            target = self.predict_v(x_start, t, noise)
        per_image = self.mean(self._distance(output - target), (1, 2, 3))
        return per_image * self.gather(self.loss_weight, t, 0)

    def construct(self, img: Tensor, t: Tensor | None = None, noise: Tensor | None = None, self_cond: bool | None = None,
                  classes: Tensor | None = None, dropout_key: Tensor | None = None) -> Tensor:
        if t is None:
            t = Tensor(np.random.default_rng().integers(0, self.num_timesteps, img.shape[0]), ms.int32)
        if noise is None:
            noise = Tensor(np.random.default_rng().standard_normal(img.shape), ms.float32)
        if self_cond is None:
            self_cond = self.self_condition and secrets.randbelow(2) == 1
        return self.losses(img, t, noise, self_cond, classes, dropout_key).mean()

    # Sampling.

    def sample(
        self,
        batch_size: int = 16,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float | None = None,
        spacing: str = "linspace",
        seed: int | None = None,
        first_index: int = 0,
        classes: Sequence[int] | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> np.ndarray:
        """Draw images.

        Args:
            batch_size: how many, all in one batch.
            sampler: "ddpm" or "ddim". Default: "ddpm" for all steps, else "ddim".
            steps: network evaluations, 1 to T. Default: ``sampling_timesteps``.
            eta: noise of DDIM, 0 to 1. Default: ``ddim_sampling_eta``.
            spacing: which steps are visited, see `samplers.spacing`.
            seed: image k of a seed is the same whatever the batch; None draws a new seed.
            first_index: number of the first image: 16 images from 0 are 8 from 0 and 8 from 8.
            classes: one label per image, 0 to num_classes (which stands for "no class"). Default for a class-conditional
                network: image k has class k modulo num_classes.
            callback: called after each evaluation with (t, x_t, x0 estimate), tensors in [-1, 1].

        Returns:
            float32 (batch_size, C, H, W) in [0, 1] (in [-1, 1] without ``auto_normalize``).

        Raises:
            InputError: an argument is not allowed.
        """
        check_range("batch_size", batch_size, 1)
        visited = sampling_steps(self.num_timesteps, self.sampling_timesteps if steps is None else steps, spacing)
        sampler = sampler or ("ddpm" if len(visited) == self.num_timesteps else "ddim")
        check_choice("sampler", sampler, SAMPLERS)
        eta = check_range("eta", self.ddim_sampling_eta if eta is None else eta, 0, 1)
        seed = secrets.randbits(63) if seed is None else check_range("seed", seed, 0, 2**63 - 1)

        images = range(first_index, first_index + batch_size)
        shape = (self.channels, *self.image_size)

        def noise(i: int) -> Tensor:
            return Tensor(rng.normal(seed, "sample", i + 1, images, shape))

        labels = self._labels(classes, images)
        was_training = self.model.training
        self.model.set_train(False)
        try:
            x = SAMPLERS[sampler](self._denoiser(batch_size, labels, callback), noise(-1), visited, self.schedule, noise,
                                  variance=self.variance, eta=eta)
        finally:
            self.model.set_train(was_training)
        images = np.clip(x.asnumpy(), -1, 1)
        return (images + 1) / 2 if self.auto_normalize else images

    def _labels(self, classes: Sequence[int] | None, images: range) -> Tensor | None:
        """Checked labels (B,) for the network, or None if it takes none."""
        count = getattr(self.model, "num_classes", None)
        if not count:
            if classes is not None:
                raise InputError(f"classes are {list(classes)}, allowed with a network that is not class-conditional: none")
            return None
        labels = [k % count for k in images] if classes is None else list(classes)
        if len(labels) != len(images):
            raise InputError(f"there are {len(labels)} classes for {len(images)} images, allowed: one each")
        for label in labels:
            check_range("class", label, 0, count)
        return Tensor(np.array(labels), ms.int32)

    def _denoiser(self, batch_size: int, labels: Tensor | None, callback: Callable | None) -> Callable:
        """(x, t) -> (eps, x0) for the samplers: one graph, t as a tensor, the last x0 carried to self-conditioning."""
        if self._denoise_graph is None:
            self._denoise_graph = runtime.compiled(self.denoise)
        last = ops.zeros((batch_size, self.channels, *self.image_size), ms.float32) if self.self_condition else None

        def denoise(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            nonlocal last
            eps, x_start = self._denoise_graph(x, Tensor(np.full(batch_size, t), ms.int32), last, labels)
            if self.self_condition:
                last = x_start
            if callback is not None:
                callback(t, x, x_start)
            return eps, x_start

        return denoise

    def denoise(self, x, t, x_self_cond, classes):
        """What is compiled for sampling: `model_predictions` with x0 clipped."""
        return self._predict(x, t, x_self_cond, classes, None, True)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        """Entries ``t`` (B,) of a table (T,), shaped (B, 1, 1, 1)."""
        return self.reshape(self.gather(table, t, 0), (-1, 1, 1, 1))

    def _distance(self, error: Tensor) -> Tensor:
        if self.loss_type == "l1":
            return self.abs(error)
        if self.loss_type == "l2":
            return self.square(error)
        size = self.abs(error)
        inner = self.minimum(size, 1.0)
        return 0.5 * self.square(inner) + (size - inner)
