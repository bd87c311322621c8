"""`GaussianDiffusion`: a network, the process it is trained for, the loss, and sampling, behind one class."""

from __future__ import annotations

import contextlib
import inspect
import numbers
import secrets
from typing import Any, Callable, Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.config import DiffusionConfig, ImageSize, SamplingConfig, section_of
from ddpm_ms.diffusion.likelihood import BitsPerDim
from ddpm_ms.diffusion.loss import DiffusionLoss
from ddpm_ms.diffusion.loss_weights import weight_name
from ddpm_ms.diffusion.noise import Normal, check_scipy, training_noise
from ddpm_ms.diffusion.objectives import Prediction
from ddpm_ms.diffusion.process import DiffusionProcess
from ddpm_ms.diffusion.schedules import schedule_keys, schedule_of
from ddpm_ms.diffusion.variances import split_variance, variance_of
from ddpm_ms.errors import InputError, check_choice, check_range, shown
from ddpm_ms.parts import SAMPLERS, options_of
from ddpm_ms.sampling.images import ImageSpace
from ddpm_ms.sampling.pipeline import SamplingPipeline


class GaussianDiffusion(nn.Cell):
    """Gaussian diffusion over images (DDPM, arXiv:2006.11239).

    Args:
        model: network (x, t, x_self_cond, classes, dropout_key) -> (B, C, H, W), see `ddpm_ms.Unet`. With twice the channels
            (``learned_variance``) the second half spans the variance, and the loss is the hybrid one (arXiv:2102.09672,
            equation 16). One of your own takes all five, needs the attribute ``channels``, and says by ``out_dim``,
            ``self_condition``, ``num_classes`` and ``dropout`` (a number) what it has of these (default: nothing); its methods
            ``check_image_size(height, width)`` and ``check_process(timesteps, objective)`` are asked if there are any.
        image_size: pixels, or (height, width).
        sampling_timesteps: default number of sampling steps; fewer than ``timesteps`` selects DDIM, as
            denoising-diffusion-pytorch does. Default: all steps of DDPM.
        ddim_sampling_eta: default ``eta`` of a sampler that takes it, 0 to 1; None: the sampler's own.
        auto_normalize: users have images in [0, 1], the process in [-1, 1]; False: users have them in [-1, 1] as well.
        loss_weight, p2_loss_weight_gamma, min_snr_loss_weight: as in scripts for denoising-diffusion-pytorch: without a
            ``loss_weight``, a ``p2_loss_weight_gamma`` above 0 chooses "p2" and one of 0 "none", and ``min_snr_loss_weight=True``
            "min_snr"; else it is "snr".
        schedule_fn_kwargs: as there: options of the ``beta_schedule``, {"tau": 0.5} for ``sigmoid_tau=0.5``.
        config: the process and its loss as a section, instead of keywords.
        keywords: those of `ddpm_ms.config.DiffusionConfig`, which explains them: timesteps, objective, beta_schedule, ...

    Inputs:
        - **img** (B, C, H, W), floating point, a Tensor or an array, in [0, 1] (see ``auto_normalize``).
        - **t** (B,) int32 in [0, T), 0 the least noisy.
        - **noise** (B, C, H, W), standard normal.
        - **self_cond** bool: whether this call conditions the network on its own estimate of x0.
        - **classes**, **dropout_key**: handed to the network.

        ``diffusion(img)`` alone draws t, noise (see `draw_noise`) and the coin from the operating system; a training loop
        passes them, and then nothing is random.

    Outputs:
        Scalar float32, the mean loss.

    Raises:
        InputError: a keyword is not allowed or does not fit the model, or the model or the images are not what is said here.
    """

    def __init__(self, model: nn.Cell, *, image_size: int | Sequence[int], sampling_timesteps: int | None = None,
                 ddim_sampling_eta: float | None = None, auto_normalize: bool = True, loss_weight: str | None = None,
                 p2_loss_weight_gamma: float | None = None, min_snr_loss_weight: bool = False,
                 schedule_fn_kwargs: Mapping[str, float] | None = None, config: DiffusionConfig | None = None,
                 **keywords: Any) -> None:
        super().__init__()
        if schedule_fn_kwargs:
            name = keywords.get("beta_schedule", DiffusionConfig.model_fields["beta_schedule"].default)
            keywords.update(schedule_keys(name, schedule_fn_kwargs))
        if config is None:
            keywords["loss_weight"] = weight_name(loss_weight, p2_loss_weight_gamma, min_snr_loss_weight)
            keywords["p2_loss_weight_gamma"] = p2_loss_weight_gamma or None
            keywords["betas"] = None if keywords.get("betas") is None else tuple(map(float, keywords["betas"]))
        self.config = c = section_of(DiffusionConfig, config, keywords)
        self.ddim_sampling_eta = None if ddim_sampling_eta is None else check_range("ddim_sampling_eta", ddim_sampling_eta, 0, 1)
        height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
        self.image_size = (height, width)
        _check_model(model, self.image_size, c)
        self.model, self.channels, self.auto_normalize = model, model.channels, auto_normalize
        self.self_condition, self.num_classes = getattr(model, "self_condition", False), getattr(model, "num_classes", None)
        self.learned_variance = _learns_variance(model)
        self.variance = variance_of(c.variance, self.learned_variance)
        self.schedule = schedule_of(c)
        self.objective, self.num_timesteps = c.objective, c.timesteps
        self.process = DiffusionProcess(self.schedule, self.objective, self.variance)
        self.loss = DiffusionLoss(self.process, c)
        self.loss_weight = self.loss.weight
        self.sampling_timesteps = c.timesteps if sampling_timesteps is None else sampling_timesteps
        check_range("sampling_timesteps", self.sampling_timesteps, 1, c.timesteps)
        self.cast, self.minimum, self.maximum, self.stop_gradient = ops.Cast(), ops.Minimum(), ops.Maximum(), ops.stop_gradient
        self._network_graph: Callable | None = None

    # The names of denoising-diffusion-pytorch. Arguments may be arrays.

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in _INSTEAD:
                raise
        raise AttributeError(f"GaussianDiffusion has no {name}, allowed: {_INSTEAD[name]}")

    @property
    def is_ddim_sampling(self) -> bool:
        """Whether `sample` takes fewer steps than all, by DDIM."""
        return self.sampling_timesteps < self.num_timesteps

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t, see `DiffusionProcess.q_sample`; without ``noise`` with a new one, as training adds it."""
        x_start = _tensor(x_start)
        if noise is None:
            noise = Tensor(training_noise(self.config, x_start.asnumpy(), _standard_normal(len(x_start))))
        return self.process.q_sample(x_start, _tensor(t), _tensor(noise))

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_{t-1} | x_t, x_0), see `DiffusionProcess.q_posterior`."""
        return self.process.q_posterior(_tensor(x_start), _tensor(x_t), _tensor(t))

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0, see `DiffusionProcess.predict_start_from_noise`."""
        return self.process.predict_start_from_noise(_tensor(x_t), _tensor(t), _tensor(noise))

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """The noise, see `DiffusionProcess.predict_noise_from_start`."""
        return self.process.predict_noise_from_start(_tensor(x_t), _tensor(t), _tensor(x_start))

    def predict_v(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v, see `DiffusionProcess.predict_v`."""
        return self.process.predict_v(_tensor(x_start), _tensor(t), _tensor(noise))

    def predict_start_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x0, see `DiffusionProcess.predict_start_from_v`."""
        return self.process.predict_start_from_v(_tensor(x_t), _tensor(t), _tensor(v))

    def p_losses(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None, loss_reduction: str = "mean") -> Tensor:
        """The loss of images ``x_start`` (B, C, H, W) in [-1, 1] at ``t`` (B,): a scalar, or with "none" one each, (B,)."""
        check_choice("loss_reduction", loss_reduction, ("mean", "none"))
        img = (_tensor(x_start) + 1.0) * 0.5 if self.auto_normalize else _tensor(x_start)
        noise = self._new_noise(img) if noise is None else _tensor(noise)
        losses = self.losses(img, _tensor(t), noise, self._coin())
        return losses.mean() if loss_reduction == "mean" else losses

    def p_sample_loop(self, shape: Sequence[int], return_all_timesteps: bool = False, **options: Any) -> np.ndarray:
        """`sample` of shape[0] images by all steps of DDPM; ``shape`` is (B, C, H, W)."""
        return self.sample(self._count(shape), return_all_timesteps=return_all_timesteps,
                           **{"sampler": "ddpm", "steps": None, **options})

    def ddim_sample(self, shape: Sequence[int], return_all_timesteps: bool = False, **options: Any) -> np.ndarray:
        """`sample` of shape[0] images by ``sampling_timesteps`` steps of DDIM; ``shape`` is (B, C, H, W)."""
        return self.sample(self._count(shape), return_all_timesteps=return_all_timesteps, **{"sampler": "ddim", **options})

    def _count(self, shape):
        """How many images a ``shape`` means."""
        count, *rest = shape
        if tuple(rest) != (self.channels, *self.image_size):
            raise InputError(f"shape is {shown(tuple(shape))}, allowed: {_shape_of_batch(self)}")
        return count

    # The network.

    def model_predictions(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None, classes: Tensor | None = None,
                          dropout_key: Tensor | None = None, clip_x_start: bool = True,
                          rederive_pred_noise: bool = True) -> Prediction:
        """Noise and x0 as the network sees them in ``x`` (B, C, H, W) at ``t`` (B,).

        With ``clip_x_start`` x0 is kept in [-1, 1], and with ``rederive_pred_noise`` the noise is that of the clipped x0.
        """
        output, fraction = self._output(x, t, x_self_cond, classes, dropout_key)
        noise, x_start = self.process.noise_and_start(output, x, t)
        if clip_x_start:
            x_start = self._clip(x_start)
            if rederive_pred_noise:
                noise = self.process.predict_noise_from_start(x, t, x_start)
        return Prediction(noise, x_start, fraction)

    def network_graph(self) -> Callable:
        """(x, t, x_self_cond, classes) -> the network's plain output; one graph per shape of x, whatever the sampler."""
        if self._network_graph is None:
            self._network_graph = runtime.compiled(self._network)
        return self._network_graph

    def keep_network_graph(self, key: object) -> None:
        """Let `network_graph` be taken from the cache of compiled graphs; ``key`` says everything about this process and its
        network, but the weights."""
        self._network_graph = runtime.kept(self.network_graph(), key)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block the network does not train: no dropout, no statistics that move."""
        was_training = self.model.training
        self.model.set_train(False)
        try:
            yield
        finally:
            self.model.set_train(was_training)

    def _network(self, x, t, x_self_cond, classes, dropout_key=None):
        output = self.cast(self.model(x, t, x_self_cond, classes, dropout_key), ms.float32)
        _check_output(output.shape, x.shape, self.learned_variance)
        return output

    def _output(self, x, t, x_self_cond, classes, dropout_key):
        """The network's prediction in float32 and, where it learns the variance, the variance fraction (else None)."""
        output = self._network(x, t, x_self_cond, classes, dropout_key)
        if self.learned_variance:
            return split_variance(output)
        return output, None

    def _clip(self, x_start):
        return self.minimum(self.maximum(x_start, -1.0), 1.0)

    # Training.

    def __call__(self, img: Tensor, *inputs: Any, **keywords: Any) -> Tensor:
        """The mean loss, see the class; what comes as an array becomes a tensor."""
        return super().__call__(self._checked(img), *map(_tensor, inputs),
                                **{name: _tensor(value) for name, value in keywords.items()})

    def construct(self, img: Tensor, t: Tensor | None = None, noise: Tensor | None = None, self_cond: bool | None = None,
                  classes: Tensor | None = None, dropout_key: Tensor | None = None) -> Tensor:
        """The mean loss, see the class."""
        if t is None:
            t = Tensor(np.random.default_rng().integers(0, self.num_timesteps, img.shape[0]), ms.int32)
        if noise is None:
            noise = self._new_noise(img)
        if self_cond is None:
            self_cond = self._coin()
        return self.losses(img, t, noise, self_cond, classes, dropout_key).mean()

    def losses(self, img: Tensor, t: Tensor, noise: Tensor, self_cond: bool = False, classes: Tensor | None = None,
               dropout_key: Tensor | None = None) -> Tensor:
        """Weighted loss of every image, (B,) float32; arguments as for the Cell."""
        x_start = self.normalize(img)
        x = self.process.q_sample(x_start, t, noise)
        x_self_cond = self._own_estimate(x, t, classes, dropout_key) if self_cond else None
        prediction, fraction = self._output(x, t, x_self_cond, classes, dropout_key)
        if self.learned_variance:
            return self.loss.hybrid(prediction, fraction, x_start, x, t, noise)
        return self.loss.simple(prediction, x_start, t, noise)

    def normalize(self, img: Tensor) -> Tensor:
        """Users' images in [-1, 1]."""
        return img * 2.0 - 1.0 if self.auto_normalize else img

    def draw_noise(self, img: np.ndarray, normal: Normal) -> np.ndarray:
        """The noise float32 (B, C, H, W) with which images ``img`` (B, C, H, W) are to be trained: normal, unless
        ``offset_noise_strength`` or ``immiscible`` say otherwise.

        Args:
            img: as for the Cell.
            normal: (a purpose of `ddpm_ms.rng`, shape) -> standard normal float32 (B, *shape).
        """
        return training_noise(self.config, self.normalize(img), normal)

    def check_training(self) -> None:
        """Raise `InputError` if something that training needs, and sampling does not, is not installed."""
        if self.config.immiscible:
            check_scipy()

    def _new_noise(self, img):
        return Tensor(self.draw_noise(img.asnumpy(), _standard_normal(len(img))))

    def _coin(self):
        return self.self_condition and secrets.randbelow(2) == 1

    def _checked(self, img):
        """Images float32 (B, C, H, W), from a tensor or an array of floating point numbers."""
        is_tensor = isinstance(img, Tensor)
        array = img if is_tensor else np.asarray(img)
        if tuple(array.shape[1:]) != (self.channels, *self.image_size) or array.shape[0] == 0:
            raise InputError(f"img has the shape {tuple(array.shape)}, allowed: {_shape_of_batch(self)}")
        if "float" not in str(array.dtype).lower():
            raise InputError(f"img has the type {str(array.dtype).lower()}, allowed: floating point"
                             f"{' in [0, 1]' if self.auto_normalize else ''}")
        if not is_tensor and self.auto_normalize and not (array.min() >= 0 and array.max() <= 1):
            raise InputError(f"img has values from {array.min():g} to {array.max():g}, allowed: 0 to 1 (or auto_normalize=False)")
        return self.cast(img, ms.float32) if is_tensor else Tensor(array, ms.float32)

    def _own_estimate(self, x, t, classes, dropout_key):
        """The estimate of x0, clipped the same way, that sampling will feed back (arXiv:2208.04202, section 3.2)."""
        output, _ = self._output(x, t, None, classes, dropout_key)
        return self.stop_gradient(self._clip(self.process.noise_and_start(output, x, t)[1]))

    # Sampling.

    @property
    def pipeline(self) -> SamplingPipeline:
        """What draws the images of the methods below, and says what it took."""
        space = ImageSpace((self.channels, *self.image_size), low=0 if self.auto_normalize else -1)
        return SamplingPipeline(self.network_graph(), self.process, space, num_classes=self.num_classes,
                                self_condition=self.self_condition, learned_variance=self.learned_variance,
                                evaluating=self.evaluating)

    def sample(
        self,
        batch_size: int = 16,
        *,
        seed: int | None = None,
        first_index: int = 0,
        classes: Sequence[int] | None = None,
        init_images: np.ndarray | None = None,
        latents: np.ndarray | None = None,
        guidance_fn: Callable[[Tensor, int, Tensor | None], Tensor] | None = None,
        callback: Callable[[int, int, Tensor], None] | None = None,
        return_all_timesteps: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Draw images, or redraw given ones. `SamplingPipeline.sample` does the same and says what it took.

        Args:
            batch_size: how many, all in one batch.
            seed: image k of a seed is the same whatever the batch; None draws a new seed.
            first_index: number of the first image: 16 images from 0 are 8 from 0 and 8 from 8.
            classes: one label per image, 0 to num_classes (which stands for "no class"). Default for a class-conditional
                network: image k has class k modulo num_classes; none where images or latents are given.
            init_images: (B or 1, C, H, W) to begin with instead of pure noise; ``strength`` says how much of them is redrawn
                ("SDEdit", arXiv:2108.01073), ``invert`` that DDIM inversion, not noise, brings them there.
            latents: (B or 1, C, H, W) what to begin with, as `invert` returns it.
            guidance_fn: (x, t, classes) -> gradient of log p(y | x), for classifier guidance (arXiv:2105.05233).
            callback: called at the beginning and after each transition with (done, of how many, x in [-1, 1]).
            return_all_timesteps: return what was there after each transition, too.
            options: keywords of `ddpm_ms.config.SamplingConfig`: sampler, steps, eta, spacing, guidance_scale, ...
                Defaults: ``sampling_timesteps`` steps; sampler "ddpm" if those are all, else "ddim".

        Returns:
            float32 (batch_size, C, H, W) in [0, 1] (in [-1, 1] without ``auto_normalize``); with ``return_all_timesteps``
            (batch_size, transitions + 1, C, H, W).

        Raises:
            InputError: an argument is not allowed.
        """
        return self.pipeline.sample(
            batch_size, self._options(options, seed), first_index=first_index, classes=classes, init_images=init_images,
            latents=latents, guidance_fn=guidance_fn, callback=callback, return_all_timesteps=return_all_timesteps).images

    def interpolate(self, x1: np.ndarray, x2: np.ndarray, lam: float | Sequence[float] | np.ndarray = 0.5, *,
                    seed: int | None = None, classes: Sequence[int] | None = None, callback: Callable | None = None,
                    **options: Any) -> np.ndarray:
        """Images between ``x1`` and ``x2``: both are brought to the level of ``strength``, interpolated there on the sphere,
        and denoised (arXiv:2006.11239, figure 8; arXiv:2010.02502, section 5.3 with ``invert``).

        Args:
            x1, x2: (B or 1, C, H, W).
            lam: share of ``x2``, one for all images or one each: [0, 0.25, 0.5, 0.75, 1] between two single images is a
                strip of five.
            seed, classes, callback, options: as for `sample`. Every image of the strip shares its noise.

        Returns:
            (B, C, H, W), B the longest of ``x1``, ``x2`` and ``lam``.
        """
        return self.pipeline.interpolate(x1, x2, lam, self._options(options, seed), classes=classes, callback=callback).images

    def inpaint(self, img: np.ndarray, mask: np.ndarray, *, seed: int | None = None, first_index: int = 0,
                batch_size: int | None = None, classes: Sequence[int] | None = None, callback: Callable | None = None,
                **options: Any) -> np.ndarray:
        """Fill in what is unknown of ``img`` (RePaint, arXiv:2201.09865). The steps are DDPM's, whatever ``sampler`` says.

        Args:
            img: (B or 1, C, H, W), its range as for training; unknown pixels may hold anything finite.
            mask: (H, W), or anything that broadcasts to the images: 1 where a pixel is known, 0 where it is not.
            batch_size: how many; default as many as ``img`` has.
            seed, first_index, classes, callback, options: as for `sample`; ``resamplings`` and ``jump_length`` are RePaint's.

        Returns:
            (batch_size, C, H, W); known pixels are exactly those of ``img``.
        """
        repaint = self._options({**options, "sampler": "ddpm", "eta": None}, seed)
        return self.pipeline.inpaint(img, mask, repaint, count=batch_size, first_index=first_index,
                                     classes=classes, callback=callback).images

    def invert(self, img: np.ndarray, *, classes: Sequence[int] | None = None, **options: Any) -> np.ndarray:
        """The noise that DDIM (eta 0) makes ``img`` of, (B, C, H, W): `sample` with it as ``latents`` and the same options
        gives ``img`` back, the better the more steps. Clipping is off by default here, as it must be there."""
        return self.pipeline.invert(img, self._options({"clip_x_start": False, **options}), classes=classes).images

    def bits_per_dim(self, img: np.ndarray, *, classes: Sequence[int] | None = None, seed: int = 0, first_index: int = 0,
                     callback: Callable[[int, int], None] | None = None) -> BitsPerDim:
        """The variational bound on the negative log-likelihood, every term, T network evaluations (arXiv:2006.11239,
        equation 5), with the process's ``variance``.

        Args:
            img: (B, C, H, W) as for training; grey levels of 256.
            classes: labels; default: none for every image.
            seed, first_index: of the noise, as in `sample`.
            callback: called with (steps done, of how many).

        Returns:
            `BitsPerDim`; its ``total`` (B,) is what papers print.
        """
        batch = self.pipeline.batch(len(img), SamplingConfig(sampler="ddpm", steps=None, seed=seed), first_index=first_index,
                                    classes=classes, given=True)
        with self.evaluating():
            return self.loss.bound.bits_per_dim(batch.denoise.independent, Tensor(batch.normalize(img)), batch.noise, callback)

    def check_sampling(self, options: SamplingConfig) -> None:
        """Raise `InputError` if `SamplingPipeline.sample` would not take ``options``."""
        self.pipeline.check(options)

    def _options(self, given: dict[str, Any], seed: int | None = None) -> SamplingConfig:
        """`SamplingConfig` from keywords, with this process's defaults; a ``seed`` of None is a new one."""
        steps = given.get("steps", self.sampling_timesteps)
        sampler = given.get("sampler", "ddpm" if steps in (None, self.num_timesteps) else "ddim")
        defaults = {"sampler": sampler, "steps": steps, "seed": secrets.randbits(63) if seed is None else seed}
        if self.ddim_sampling_eta is not None and sampler in SAMPLERS and "eta" in options_of(SAMPLERS[sampler]):
            defaults["eta"] = self.ddim_sampling_eta
        return SamplingConfig(**{**defaults, **given})


def create_diffusion(config: DiffusionConfig, model: nn.Cell, image_size: ImageSize) -> GaussianDiffusion:
    """The process that ``config`` describes around ``model``, for images of ``image_size``."""
    return GaussianDiffusion(model, image_size=image_size, config=config)


# Names of denoising-diffusion-pytorch that have no equal here, and what says the same.
_INSTEAD = {
    "forward": "the object itself, diffusion(img)",
    "p_mean_variance": "model_predictions, whose pred_x_start q_posterior takes",
    "p_sample": "sample, whose callback sees every step; a sampler of your own is a few lines (CONTRIBUTING.md)",
    "noise_assignment": "immiscible=True",
    "random_times": "t=..., or nothing: diffusion(img) draws it; for training timestep_sampling of Trainer",
    "unnormalize": "pipeline.space.unnormalize(x) of an array",
    "device": "ddpm_ms.runtime.current().device",
    "parameters": "trainable_params()",
    "cuda": "nothing (MindSpore chooses the device, as mindspore.set_device says)",
    "eval": "set_train(False)",
    "train": "set_train()",
    **{name: f"schedule.{name}" for name in (
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2")},
    "offset_noise_strength": "config.offset_noise_strength",
    "immiscible": "config.immiscible",
}
_INPUTS = ("x", "t", "x_self_cond", "classes", "dropout_key")  # of a network


def _tensor(value: Any) -> Any:
    """An array as a tensor of float32 or int32; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return Tensor(value, ms.float32 if value.dtype.kind == "f" else ms.int32)


def _standard_normal(count: int) -> Normal:
    """Standard normal float32 (count, *shape), from the operating system."""
    generator = np.random.default_rng()
    return lambda purpose, shape: generator.standard_normal((count, *shape), np.float32)


def _shape_of_batch(diffusion: GaussianDiffusion) -> str:
    return f"(B, {diffusion.channels}, {diffusion.image_size[0]}, {diffusion.image_size[1]})"


@ops.constexpr
def _check_output(found: tuple, shape: tuple, learned_variance: bool) -> bool:
    """Raise `InputError` unless the network returns what it should; another shape could be broadcast, and train anything."""
    expected = (shape[0], shape[1] * (2 if learned_variance else 1), *shape[2:])
    if tuple(found) != expected:
        raise InputError(f"the network returns the shape {tuple(found)}, allowed: {expected}")
    return True


def _check_model(model: nn.Cell, image_size: tuple[int, int], config: DiffusionConfig) -> None:
    """The network has the inputs and the attributes that one needs; and it is asked whether it takes these images and this
    process, if it can say."""
    _check_interface(model)
    if hasattr(model, "check_image_size"):
        model.check_image_size(*image_size)
    if hasattr(model, "check_process"):
        model.check_process(config.timesteps, config.objective)


def _check_interface(model: nn.Cell) -> None:
    """Raise `InputError` unless it can be called as a network is, and what it says of itself can be used."""
    name, expected = type(model).__name__, f"construct(self, {', '.join(_INPUTS)})"
    if not isinstance(model, nn.Cell) or isinstance(model, type):
        raise InputError(f"the network is a {name}, allowed: a mindspore.nn.Cell with {expected}")
    signature = inspect.signature(model.construct)
    try:
        signature.bind(*_INPUTS)
    except TypeError:
        raise InputError(f"{name} has construct(self{''.join(f', {p}' for p in signature.parameters.values())}), allowed: "
                         f"{expected}; it need not use the last three") from None
    channels, dropout = getattr(model, "channels", None), getattr(model, "dropout", 0)
    if not isinstance(channels, numbers.Integral):
        raise InputError(f"{name}.channels is {shown(channels)}, allowed: a whole number, the channels of the images")
    if not isinstance(dropout, numbers.Real):
        raise InputError(f"{name}.dropout is a {type(dropout).__name__}, allowed: a number, above 0 if it takes a dropout_key; "
                         "call the layer otherwise")


def _learns_variance(model: nn.Cell) -> bool:
    """Whether the network's output has a second half."""
    outputs = getattr(model, "out_dim", model.channels)
    if outputs not in (model.channels, 2 * model.channels):
        raise InputError(f"the network has {outputs} output channels, allowed: its {model.channels} input channels, or "
                         f"with learned variance {2 * model.channels}")
    return outputs != model.channels
