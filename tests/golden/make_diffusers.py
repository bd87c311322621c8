"""Make diffusers_samplers.npz: what the schedulers of diffusers make of a fixed network, noise and list of steps.

    pip install --no-deps diffusers==0.42.0
    pip install torch==2.13.0 "numpy<2" huggingface_hub importlib_metadata filelock regex requests safetensors pillow
    python tests/golden/make_diffusers.py

The network is a formula, so that the test needs none of this. Schedulers keep alphas_cumprod in float32; here they get it in
float64, so that the comparison is one of methods and not of rounding.
"""

from pathlib import Path

import diffusers.schedulers.scheduling_ddim as ddim_module
import diffusers.schedulers.scheduling_ddpm as ddpm_module
import diffusers.schedulers.scheduling_dpmsolver_multistep as dpm_module
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

HERE = Path(__file__).parent
SHAPE = (2, 1, 4, 4)
STEPS = 10
CASES = {
    "ddpm_fixed_small": (DDPMScheduler, dict(variance_type="fixed_small", timestep_spacing="leading", clip_sample=False), {}),
    "ddpm_fixed_large": (DDPMScheduler, dict(variance_type="fixed_large", timestep_spacing="leading", clip_sample=True), {}),
    "ddpm_learned": (DDPMScheduler, dict(variance_type="learned_range", timestep_spacing="leading", clip_sample=False), {}),
    "ddim_eta0": (DDIMScheduler, dict(timestep_spacing="leading", clip_sample=False), dict(eta=0.0)),
    "ddim_eta05": (DDIMScheduler, dict(timestep_spacing="leading", clip_sample=True),
                   dict(eta=0.5, use_clipped_model_output=True)),
    "ddim_trailing7": (DDIMScheduler, dict(timestep_spacing="trailing", clip_sample=False), dict(eta=0.0)),
    "dpmpp_2m": (DPMSolverMultistepScheduler, dict(algorithm_type="dpmsolver++", solver_order=2), {}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, dict(algorithm_type="sde-dpmsolver++", solver_order=2), {}),
    "heun": (HeunDiscreteScheduler, dict(num_train_timesteps=1001, timestep_spacing="linspace"), {}),
    "unipc": (UniPCMultistepScheduler, dict(solver_order=2, solver_type="bh2", predict_x0=True), {}),
}


def network(x: np.ndarray, t: float) -> np.ndarray:
    """Predicted noise."""
    return 0.8 * np.tanh(x + 0.3) * np.cos(t / 300) + 0.4 * x


def main() -> None:
    random = np.random.default_rng(0)
    start, noise = random.standard_normal(SHAPE), random.standard_normal((STEPS, *SHAPE))
    drawn = iter(())
    for module in (ddpm_module, ddim_module, dpm_module):
        module.randn_tensor = lambda *_, **__: torch.from_numpy(next(drawn))
    arrays = {"start": start, "noise": noise}
    for name, (scheduler_class, settings, step_settings) in CASES.items():
        scheduler = scheduler_class(**{"num_train_timesteps": 1000, "beta_schedule": "linear", **settings})
        betas = np.linspace(1e-4, 0.02, scheduler.config.num_train_timesteps)
        scheduler.alphas_cumprod = torch.from_numpy(np.cumprod(1 - betas))
        scheduler.set_timesteps(7 if name == "ddim_trailing7" else STEPS + (name == "heun"))
        drawn = iter(noise)
        x = torch.from_numpy(start)
        if name == "heun":  # works on x / alpha
            x = x * float((scheduler.sigmas[0] ** 2 + 1) ** 0.5)
        visited = []
        for t in scheduler.timesteps:
            visited.append(float(t))
            seen = scheduler.scale_model_input(x, t).numpy()
            output = network(seen, float(t))
            if name == "ddpm_learned":
                output = np.concatenate([output, np.sin(3 * seen)], 1)
            x = scheduler.step(torch.from_numpy(output), t, x, **step_settings).prev_sample.double()
        arrays[f"{name}.result"] = x.numpy()
        arrays[f"{name}.steps"] = np.array(sorted(set(visited), reverse=True))
        print(name, arrays[f"{name}.steps"], float(x.abs().max()))
    np.savez_compressed(HERE / "diffusers_samplers.npz", **arrays)


if __name__ == "__main__":
    main()
