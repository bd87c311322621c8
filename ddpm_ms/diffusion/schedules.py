"""Noise schedules, in numpy float64, and the coefficient tables that follow from them."""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence

import numpy as np

from ddpm_ms.config import DiffusionConfig
from ddpm_ms.errors import InputError, check_range, shown
from ddpm_ms.parts import SCHEDULES, options_of

MAX_BETA = 0.999  # the cosine and sigmoid schedules reach 1 at the end (arXiv:2102.09672, section 3.2)


def linear_beta_schedule(timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Betas in equal steps (DDPM, arXiv:2006.11239, section 4), scaled so that any ``timesteps`` end as noisy as 1000."""
    scale = 1000 / timesteps
    return np.linspace(scale * beta_start, scale * beta_end, timesteps)


def scaled_linear_beta_schedule(timesteps: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> np.ndarray:
    """Square roots of the betas in equal steps (latent diffusion, arXiv:2112.10752); scaled as `linear_beta_schedule`."""
    return _quadratic(timesteps, beta_start, beta_end)


def quadratic_beta_schedule(timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """As `scaled_linear_beta_schedule` between DDPM's two ends: "quad" of DDIM's code (arXiv:2010.02502)."""
    return _quadratic(timesteps, beta_start, beta_end)


def cosine_beta_schedule(timesteps: int, *, s: float = 0.008) -> np.ndarray:
    """alphas_cumprod = cos^2 of time (Improved DDPM, arXiv:2102.09672, equation 17)."""
    time = np.arange(timesteps + 1) / timesteps
    return _betas_from_alphas_cumprod(np.cos((time + s) / (1 + s) * math.pi / 2) ** 2)


def sigmoid_beta_schedule(timesteps: int, *, start: float = -3, end: float = 3, tau: float = 1) -> np.ndarray:
    """alphas_cumprod = a sigmoid of time (arXiv:2212.11972, figure 8); less noise early, for larger images."""
    time = np.arange(timesteps + 1) / timesteps
    low, high = _sigmoid(start / tau), _sigmoid(end / tau)
    if not low < high:
        raise InputError(f"sigmoid_start is {start:g} and sigmoid_end {end:g}, allowed: an end above the start")
    return _betas_from_alphas_cumprod((high - _sigmoid((time * (end - start) + start) / tau)) / (high - low))


def rescale_zero_terminal_snr(betas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Betas whose last step is pure noise: sqrt(alphas_cumprod) shifted and stretched so that its end is 0 and its
    beginning stays (arXiv:2305.08891, algorithm 1). The last beta becomes 1."""
    root = np.sqrt(np.cumprod(1 - np.asarray(betas, np.float64)))
    if len(root) < 2:
        raise InputError("rescale_betas_zero_snr with 1 timestep, allowed: at least 2")
    alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])


class NoiseSchedule:
    """Every coefficient of the forward process and its posterior, float64 arrays of shape (timesteps,).

    Index 0 is the least noisy step. Names and formulas are those of DDPM (arXiv:2006.11239, equations 4 to 7).

    Args:
        betas: variances of the forward steps, each in (0, 1); the last one may be 1 (no signal is left at the end).

    Raises:
        InputError: a beta leaves (0, 1) or ``alphas_cumprod`` does not fall.
    """

    def __init__(self, betas: Sequence[float] | np.ndarray) -> None:
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or not betas.size:
            raise InputError(f"betas have shape {betas.shape}, allowed: one dimension, at least one step")
        bad = np.flatnonzero(~((betas > 0) & (betas < 1)))
        if bad.size and bad[0] == betas.size - 1 > 0 and betas[-1] == 1:
            bad = bad[1:]
        if bad.size:
            raise InputError(f"beta of step {bad[0]} is {betas[bad[0]]:.4g} with {betas.size} timesteps, "
                             "allowed: between 0 and 1 (use more timesteps or another schedule)")
        self.betas = betas
        self.alphas = 1 - betas
        self.alphas_cumprod = np.cumprod(self.alphas)
        if not (np.diff(self.alphas_cumprod) < 0).all():
            raise InputError("alphas_cumprod does not fall from step to step, allowed: strictly falling")
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        # q(x_t | x_0)
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)
        # q(x_{t-1} | x_t, x_0)
        one_minus = 1 - self.alphas_cumprod
        self.posterior_variance = betas * (1 - self.alphas_cumprod_prev) / one_minus
        # The first is 0, so its logarithm is replaced by the second's, as in Improved DDPM's code.
        self.posterior_log_variance_clipped = np.log(np.append(self.posterior_variance[1:2], self.posterior_variance[1:])
                                                     if betas.size > 1 else betas)
        self.posterior_mean_coef1 = betas * np.sqrt(self.alphas_cumprod_prev) / one_minus
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * np.sqrt(self.alphas) / one_minus

    def __len__(self) -> int:
        return len(self.betas)

    def alpha_cumprod(self, step: int) -> float:
        """alphas_cumprod at ``step``; step -1 is the clean image, 1.0."""
        return 1.0 if step < 0 else float(self.alphas_cumprod[step])

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        """Signal and noise: sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod) at ``step``, -1 for the clean image."""
        return math.sqrt(self.alpha_cumprod(step)), math.sqrt(1 - self.alpha_cumprod(step))

    def half_log_snr(self, step: int) -> float:
        """log(alpha / sigma), the time of the DPM-Solvers (arXiv:2211.01095): +inf at step -1, -inf where no signal is."""
        alpha, sigma = self.alpha_sigma(step)
        return math.inf if sigma == 0 else -math.inf if alpha == 0 else math.log(alpha / sigma)


def schedule_of(config: DiffusionConfig) -> NoiseSchedule:
    """The schedule that ``config`` describes.

    Raises:
        InputError: as `create_schedule`; or an option of another schedule than the one that is named is not its default.
    """
    for name in SCHEDULES.own:
        for option in sorted(options_of(SCHEDULES[name])):
            key = f"{name}_{option}"
            value, default = getattr(config, key), DiffusionConfig.model_fields[key].default
            if name != config.beta_schedule and value != default:
                raise InputError(f"diffusion.{key} is {value:g} with beta_schedule {config.beta_schedule}, allowed: {default:g}, "
                                 f"or beta_schedule {name}")
    own = options_of(SCHEDULES[config.beta_schedule])
    return create_schedule(config.beta_schedule, config.timesteps, config.betas, config.rescale_betas_zero_snr,
                           {option: getattr(config, f"{config.beta_schedule}_{option}") for option in own})


def schedule_keys(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The ``schedule_fn_kwargs`` of denoising-diffusion-pytorch as keys of `DiffusionConfig`: tau of sigmoid is sigmoid_tau.

    Raises:
        InputError: the schedule ``name`` has no such option.
    """
    SCHEDULES.check("beta_schedule", name)
    known = options_of(SCHEDULES[name])
    for option in options:
        if option not in known:
            raise InputError(f"schedule_fn_kwargs has {shown(option)}, allowed with beta_schedule {name}: "
                             f"{', '.join(sorted(known)) or 'nothing'}")
    return {f"{name}_{option}": value for option, value in options.items()}


def create_schedule(name: str, timesteps: int, betas: Sequence[float] | np.ndarray | None = None,
                    rescale_betas_zero_snr: bool = False, options: Mapping[str, float] | None = None) -> NoiseSchedule:
    """The named schedule.

    Args:
        name: a name in `ddpm_ms.parts.SCHEDULES`.
        timesteps: number of steps.
        betas: these instead of the named ones, ``timesteps`` of them.
        rescale_betas_zero_snr: see `rescale_zero_terminal_snr`.
        options: keywords of the named schedule.

    Raises:
        InputError: an unknown name, a wrong number of betas, or a schedule that is none.
    """
    SCHEDULES.check("beta_schedule", name)
    check_range("timesteps", timesteps, 1)
    if betas is None:
        betas = SCHEDULES[name](timesteps, **(options or {}))
    elif len(betas) != timesteps:
        raise InputError(f"there are {len(betas)} betas, allowed with timesteps={timesteps}: {timesteps}")
    if rescale_betas_zero_snr:
        NoiseSchedule(betas)  # the betas that were asked for must be a schedule themselves
        betas = rescale_zero_terminal_snr(betas)
    return NoiseSchedule(betas)


def _quadratic(timesteps: int, beta_start: float, beta_end: float) -> np.ndarray:
    return 1000 / timesteps * np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), timesteps) ** 2


def _betas_from_alphas_cumprod(alphas_cumprod: np.ndarray) -> np.ndarray:
    return np.clip(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0, MAX_BETA)


def _sigmoid(x: Any) -> Any:
    """Of a number or of each number of an array."""
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))
