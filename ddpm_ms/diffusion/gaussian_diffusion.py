"""`GaussianDiffusion`: the forward process, the training loss, and sampling around any network."""

from __future__ import annotations

import math
import secrets
from typing import Any, Callable, NamedTuple, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ddpm_ms import runtime
from ddpm_ms.config import DiffusionConfig, SamplingConfig, section_of
from ddpm_ms.diffusion.denoiser import noise_and_start
from ddpm_ms.diffusion.generation import Generation, slerp
from ddpm_ms.diffusion.likelihood import BitsPerDim, discretized_gaussian_nll, normal_kl, prior_kl
from ddpm_ms.diffusion.loss_weights import create_loss_weight, weight_name
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.errors import InputError, check_range
from ddpm_ms.parts import SAMPLERS, options_of


class ModelPrediction(NamedTuple):
    """Two views of one network output, each (B, C, H, W)."""

    pred_noise: Tensor
    pred_x_start: Tensor


class GaussianDiffusion(nn.Cell):
    """Gaussian diffusion over images (DDPM, arXiv:2006.11239).

    Args:
        model: network (x, t, x_self_cond, classes, dropout_key) -> (B, C, H, W), see `ddpm_ms.Unet`. With twice the channels
            (``learned_variance``) the second half spans the variance, and the loss is the hybrid one (arXiv:2102.09672,
            equation 16). One of your own needs the attribute ``channels``, and says by ``out_dim``, ``self_condition``,
            ``num_classes`` and ``dropout`` what it has of these (default: nothing); its methods ``check_image_size(height,
            width)`` and ``check_process(timesteps, objective)`` are asked if there are any.
        image_size: pixels, or (height, width).
        sampling_timesteps: default number of sampling steps; fewer than ``timesteps`` selects DDIM, as
            denoising-diffusion-pytorch does. Default: all steps of DDPM.
        ddim_sampling_eta: default ``eta`` of a sampler that takes it, 0 to 1; None: the sampler's own.
        auto_normalize: images are [0, 1] outside and [-1, 1] inside; False: they are [-1, 1] outside as well.
        loss_weight, p2_loss_weight_gamma, min_snr_loss_weight: as in scripts for denoising-diffusion-pytorch: without a
            ``loss_weight``, a ``p2_loss_weight_gamma`` above 0 chooses "p2" and one of 0 "none", and ``min_snr_loss_weight=True``
            "min_snr"; else it is "snr".
        config: the process and its loss as a section, instead of keywords.
        keywords: those of `ddpm_ms.config.DiffusionConfig`, which explains them: timesteps, objective, beta_schedule, ...

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

    def __init__(self, model: nn.Cell, *, image_size: int | Sequence[int], sampling_timesteps: int | None = None,
                 ddim_sampling_eta: float | None = None, auto_normalize: bool = True, loss_weight: str | None = None,
                 p2_loss_weight_gamma: float | None = None, min_snr_loss_weight: bool = False,
                 config: DiffusionConfig | None = None, **keywords: Any) -> None:
        super().__init__()
        if config is None:
            keywords["loss_weight"] = weight_name(loss_weight, p2_loss_weight_gamma, min_snr_loss_weight)
            keywords["p2_loss_weight_gamma"] = p2_loss_weight_gamma or None
            keywords["betas"] = None if keywords.get("betas") is None else tuple(map(float, keywords["betas"]))
        self.config = c = section_of(DiffusionConfig, config, keywords)
        self.objective, self.num_timesteps = c.objective, c.timesteps
        self.ddim_sampling_eta = None if ddim_sampling_eta is None else check_range("ddim_sampling_eta", ddim_sampling_eta, 0, 1)
        self.image_size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        if hasattr(model, "check_image_size"):
            model.check_image_size(*self.image_size)
        if hasattr(model, "check_process"):
            model.check_process(c.timesteps, c.objective)
        self.model = model
        self.channels = model.channels
        self.self_condition = getattr(model, "self_condition", False)
        self.auto_normalize = auto_normalize
        self.learned_variance = self._learns_variance()
        self.variance = self.check_variance(c.variance or ("learned" if self.learned_variance else "fixed_small"))

        self.schedule = create_schedule(c.beta_schedule, c.timesteps, c.betas, c.rescale_betas_zero_snr)
        if c.objective == "pred_noise" and self.schedule.snr[-1] == 0:
            raise InputError("objective is 'pred_noise' where the last step has no signal (rescale_betas_zero_snr): the noise "
                             "says nothing about the image there, allowed: pred_x0, pred_v")
        self.sampling_timesteps = c.timesteps if sampling_timesteps is None else sampling_timesteps
        check_range("sampling_timesteps", self.sampling_timesteps, 1, c.timesteps)
        self.nfe = 0  # network evaluations of the last sampling, a batched pair of guidance counted once
        self._set_tables()
        self.loss_weight = Tensor(create_loss_weight(c, self.schedule.snr), ms.float32)
        self.gather, self.reshape, self.cast, self.split = ops.Gather(), ops.Reshape(), ops.Cast(), ops.Split(1, 2)
        self.mean, self.square, self.abs = ops.ReduceMean(), ops.Square(), ops.Abs()
        self.minimum, self.maximum, self.stop_gradient = ops.Minimum(), ops.Maximum(), ops.stop_gradient
        self._network_graph: Callable | None = None

    def _learns_variance(self) -> bool:
        """Whether the network's output has a second half."""
        outputs = getattr(self.model, "out_dim", self.channels)
        if outputs not in (self.channels, 2 * self.channels):
            raise InputError(f"the network has {outputs} output channels, allowed: its {self.channels} input channels, or "
                             f"with learned variance {2 * self.channels}")
        return outputs != self.channels

    def _set_tables(self) -> None:
        """float64 to float32 once, here. Plain tensors, not parameters: never averaged, never saved."""
        s = self.schedule
        # At step 0, where DDPM adds no noise, these are the variances of the bound's decoder.
        small = s.posterior_log_variance_clipped
        large = np.append(small[:1], np.log(s.betas[1:]))
        tables = {
            "sqrt_alphas_cumprod": s.sqrt_alphas_cumprod,
            "sqrt_one_minus_alphas_cumprod": s.sqrt_one_minus_alphas_cumprod,
            "posterior_mean_coef1": s.posterior_mean_coef1,
            "posterior_mean_coef2": s.posterior_mean_coef2,
            "posterior_variance": s.posterior_variance,
            "posterior_log_variance_clipped": small,
            "log_betas": np.log(s.betas),
            "model_log_variance": large if self.variance == "fixed_large" else small,
        }
        for name, table in tables.items():
            setattr(self, name, Tensor(table, ms.float32))

    def check_variance(self, variance: str) -> str:
        """``variance`` if it is one that this process can sample with."""
        if variance == "learned" and not self.learned_variance:
            raise InputError("variance is 'learned', allowed with a network of learned_variance=False: fixed_small, fixed_large")
        return variance

    # The forward process.

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (arXiv:2006.11239, equation 4)."""
        return (self._at(self.sqrt_alphas_cumprod, t) * x_start
                + self._at(self.sqrt_one_minus_alphas_cumprod, t) * noise)

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_{t-1} | x_t, x_0) (arXiv:2006.11239, equations 6 and 7).

        The variance is 0 at t = 0; the logarithm there is that of t = 1.
        """
        mean = self._at(self.posterior_mean_coef1, t) * x_start + self._at(self.posterior_mean_coef2, t) * x_t
        return mean, self._at(self.posterior_variance, t), self._at(self.posterior_log_variance_clipped, t)

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 such that `q_sample` with ``noise`` gives ``x_t``."""
        return (x_t - self._at(self.sqrt_one_minus_alphas_cumprod, t) * noise) / self._at(self.sqrt_alphas_cumprod, t)

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """Noise such that `q_sample` of ``x_start`` gives ``x_t``."""
        return (x_t - self._at(self.sqrt_alphas_cumprod, t) * x_start) / self._at(self.sqrt_one_minus_alphas_cumprod, t)

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
                          dropout_key: Tensor | None = None, clip_x_start: bool = True,
                          rederive_pred_noise: bool = True) -> ModelPrediction:
        """Noise and x0 as the network sees them in ``x`` (B, C, H, W) at ``t`` (B,).

        With ``clip_x_start`` x0 is kept in [-1, 1], and with ``rederive_pred_noise`` the noise is that of the clipped x0.
        """
        output, _ = self._output(x, t, x_self_cond, classes, dropout_key)
        noise, x_start = self._noise_and_start(output, x, t)
        if clip_x_start:
            x_start = self._clip(x_start)
            if rederive_pred_noise:
                noise = self.predict_noise_from_start(x, t, x_start)
        return ModelPrediction(noise, x_start)

    def _output(self, x, t, x_self_cond, classes, dropout_key):
        """The network's prediction in float32 and, where it learns the variance, what it says of that (else None)."""
        output = self.cast(self.model(x, t, x_self_cond, classes, dropout_key), ms.float32)
        if self.learned_variance:
            return self.split(output)
        return output, None

    def _noise_and_start(self, output, x, t):
        return noise_and_start(self.objective, output, x, self._at(self.sqrt_alphas_cumprod, t),
                               self._at(self.sqrt_one_minus_alphas_cumprod, t))

    def _clip(self, x_start):
        return self.minimum(self.maximum(x_start, -1.0), 1.0)

    # Training.

    def losses(self, img: Tensor, t: Tensor, noise: Tensor, self_cond: bool = False, classes: Tensor | None = None,
               dropout_key: Tensor | None = None) -> Tensor:
        """Weighted loss of every image, (B,) float32; arguments as for the Cell."""
        x_start = img * 2.0 - 1.0 if self.auto_normalize else img
        x = self.q_sample(x_start, t, noise)
        x_self_cond = self._own_estimate(x, t, classes, dropout_key) if self_cond else None
        output, variance = self._output(x, t, x_self_cond, classes, dropout_key)
        per_image = self._weighted_error(output, x_start, t, noise)
        if self.learned_variance:
            # The bound teaches the variance alone: its mean is not differentiated (arXiv:2102.09672, section 3.1).
            estimate = self.stop_gradient(self._noise_and_start(output, x, t)[1])
            bound = self._vb_terms(x_start, x, t, estimate, self._learned_log_variance(variance, t))
            per_image = per_image + self.config.vb_loss_weight * self.num_timesteps * bound
        return per_image

    def construct(self, img: Tensor, t: Tensor | None = None, noise: Tensor | None = None, self_cond: bool | None = None,
                  classes: Tensor | None = None, dropout_key: Tensor | None = None) -> Tensor:
        if t is None:
            t = Tensor(np.random.default_rng().integers(0, self.num_timesteps, img.shape[0]), ms.int32)
        if noise is None:
            noise = Tensor(np.random.default_rng().standard_normal(img.shape), ms.float32)
        if self_cond is None:
            self_cond = self.self_condition and secrets.randbelow(2) == 1
        return self.losses(img, t, noise, self_cond, classes, dropout_key).mean()

    def _own_estimate(self, x, t, classes, dropout_key):
        """The estimate of x0, clipped the same way, that sampling will feed back (arXiv:2208.04202, section 3.2)."""
        output, _ = self._output(x, t, None, classes, dropout_key)
        return self.stop_gradient(self._clip(self._noise_and_start(output, x, t)[1]))

    def _weighted_error(self, output, x_start, t, noise):
        """How far ``output`` is from what the objective makes of ``x_start`` and ``noise``, (B,)."""
        if self.objective == "pred_noise":
            target = noise
        elif self.objective == "pred_x0":
            target = x_start
        else:
            target = self.predict_v(x_start, t, noise)
        return self.mean(self._distance(output - target), (1, 2, 3)) * self.gather(self.loss_weight, t, 0)

    # Likelihood.

    def _log_variance(self, variance, t):
        """Log-variance of p(x_{t-1} | x_t), as the process is defined."""
        if self.variance == "learned":
            return self._learned_log_variance(variance, t)
        return self._at(self.model_log_variance, t)

    def _learned_log_variance(self, variance, t):
        """For an output in -1 .. 1 between the posterior's and beta's (arXiv:2102.09672, equation 15)."""
        share = (variance + 1.0) * 0.5
        return share * self._at(self.log_betas, t) + (1.0 - share) * self._at(self.posterior_log_variance_clipped, t)

    def _vb_terms(self, x_start, x, t, estimate, log_variance):
        """L_t of each image in bits per dimension, (B,), for the estimate of x0: a KL divergence, at t = 0 the decoder."""
        true_mean, _, true_log_variance = self.q_posterior(x_start, x, t)
        mean, _, _ = self.q_posterior(estimate, x, t)
        divergence = self.mean(normal_kl(true_mean, true_log_variance, mean, log_variance), (1, 2, 3))
        decoder = self.mean(discretized_gaussian_nll(x_start, mean, log_variance), (1, 2, 3))
        return ops.select(t == 0, decoder, divergence) * (1.0 / math.log(2.0))

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
        run = Generation(self, SamplingConfig(sampler="ddpm", steps=None), len(img), seed=seed, first_index=first_index,
                         classes=classes, editing=True)
        x_start = Tensor(run.inside(img))
        vb, mse = np.empty((len(img), self.num_timesteps)), np.empty((len(img), self.num_timesteps))
        with run.evaluating():
            for step in reversed(range(self.num_timesteps)):
                t, noise = Tensor(np.full(len(img), step), ms.int32), run.noise(step)
                x = self.q_sample(x_start, t, noise)
                run.denoise.forget()  # the estimate of another draw of noise would tell too much
                seen = run.denoise(x, step)
                variance = None if seen.variance_fraction is None else seen.variance_fraction * 2 - 1
                terms = self._vb_terms(x_start, x, t, seen.pred_x_start, self._log_variance(variance, t))
                vb[:, step] = terms.asnumpy()
                mse[:, step] = ops.square(seen.pred_noise - noise).mean((1, 2, 3)).asnumpy()
                if callback is not None:
                    callback(self.num_timesteps - step, self.num_timesteps)
        prior = prior_kl(x_start.asnumpy(), self.schedule.alphas_cumprod[-1]).mean((1, 2, 3)) / math.log(2)
        return BitsPerDim(prior + vb.sum(1), prior, vb, mse)

    # Sampling.

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
        """Draw images, or redraw given ones.

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
        if init_images is not None and latents is not None:
            raise InputError("both init_images and latents are given, allowed: one of them")
        run = Generation(self, self._options(options), batch_size, seed=seed, first_index=first_index, classes=classes,
                         guidance_fn=guidance_fn, callback=callback, editing=init_images is not None or latents is not None)
        if init_images is not None:
            x, steps = run.noised(init_images)
        elif latents is not None:
            x, steps = run.one_each(latents), run.steps
        else:
            x, steps = run.noise(-1), run.steps
        return run.sampled(Tensor(x), steps, return_all_timesteps)

    def interpolate(self, x1: np.ndarray, x2: np.ndarray, lam: float | Sequence[float] = 0.5, *, seed: int | None = None,
                    classes: Sequence[int] | None = None, callback: Callable | None = None, **options: Any) -> np.ndarray:
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
        lam = np.atleast_1d(np.asarray(lam, np.float64))
        for share in lam:
            check_range("lam", float(share), 0, 1)
        count = max(len(x1), len(x2), len(lam))
        if len(lam) not in (1, count):
            raise InputError(f"lam has {len(lam)} entries for {count} images, allowed: 1 or {count}")
        run = Generation(self, self._options(options), count, seed=seed, classes=classes, callback=callback,
                         shared_noise=len(x1) == len(x2) == 1, editing=True)
        (a, steps), (b, _) = run.noised(x1), run.noised(x2, "endpoint")
        return run.sampled(Tensor(slerp(a, b, lam).astype(np.float32)), steps)

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
        run = Generation(self, self._options({**options, "sampler": "ddpm", "eta": None}), batch_size or len(img), seed=seed,
                         first_index=first_index, classes=classes, callback=callback, editing=True)
        return run.inpainted(img, mask)

    def invert(self, img: np.ndarray, *, classes: Sequence[int] | None = None, **options: Any) -> np.ndarray:
        """The noise that DDIM (eta 0) makes ``img`` of, (B, C, H, W): `sample` with it as ``latents`` and the same options
        gives ``img`` back, the better the more steps. Clipping is off by default here, as it must be there."""
        run = Generation(self, self._options({"clip_x_start": False, **options}), len(img), seed=0, classes=classes,
                         editing=True)
        return run.inverted(run.inside(img), run.steps[::-1])

    def check_sampling(self, options: SamplingConfig) -> None:
        """Raise `InputError` if `sample` would not take ``options``."""
        Generation(self, options, 1, seed=0).variance  # noqa: B018

    def _options(self, given: dict) -> SamplingConfig:
        """`SamplingConfig` from keywords, with this process's defaults."""
        steps = given.get("steps", self.sampling_timesteps)
        sampler = given.get("sampler", "ddpm" if steps in (None, self.num_timesteps) else "ddim")
        defaults = {"sampler": sampler, "steps": steps}
        if self.ddim_sampling_eta is not None and sampler in SAMPLERS and "eta" in options_of(SAMPLERS[sampler]):
            defaults["eta"] = self.ddim_sampling_eta
        return SamplingConfig(**{**defaults, **given})

    def network_graph(self) -> Callable:
        """(x, t, x_self_cond, classes) -> the network's plain output; one graph per shape of x, whatever the sampler."""
        if self._network_graph is None:
            self._network_graph = runtime.compiled(self._network)
        return self._network_graph

    def _network(self, x, t, x_self_cond, classes):
        return self.cast(self.model(x, t, x_self_cond, classes, None), ms.float32)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        """Entries ``t`` (B,) of a table (T,), shaped (B, 1, 1, 1)."""
        return self.reshape(self.gather(table, t, 0), (-1, 1, 1, 1))

    def _distance(self, error: Tensor) -> Tensor:
        if self.config.loss_type == "l1":
            return self.abs(error)
        if self.config.loss_type == "l2":
            return self.square(error)
        size = self.abs(error)
        inner = self.minimum(size, 1.0)
        return 0.5 * self.square(inner) + (size - inner)
