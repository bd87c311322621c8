"""Make diffusers_images.npz: the images that pipelines and schedulers of diffusers draw from our noise, with random weights.

Packages as for make_diffusers_unet.py, diffusers==0.42.0; python tests/golden/make_diffusers_images.py
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.pipelines.ddim import pipeline_ddim
from diffusers.pipelines.ddpm import pipeline_ddpm
from diffusers.schedulers import scheduling_ddpm
from images_cases import COUNT, DIFFUSERS_PATH, SCHEDULES, UNETS, carrying, check, described, noise, weights

HERE = Path(__file__).parent
PIPELINES = {"DDPMScheduler": diffusers.DDPMPipeline, "DDIMScheduler": diffusers.DDIMPipeline}


def network(keywords):
    model = diffusers.UNet2DModel(**keywords).eval()
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items()}
    state = carrying(weights(shapes), **DIFFUSERS_PATH)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return model, shapes


@torch.no_grad()
def drawn(model, scheduler, steps):
    """By the pipeline; a network with classes by the scheduler, since no pipeline passes them on: image k has class k."""
    if not model.config.num_class_embeds:
        pipeline = PIPELINES[type(scheduler).__name__](model, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(batch_size=COUNT, num_inference_steps=steps, output_type="np").images.transpose(0, 3, 1, 2)
    x = scheduling_ddpm.randn_tensor()
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t, class_labels=torch.arange(COUNT)).sample, t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1).numpy()


def main():
    models = {name: network(keywords) for name, keywords in UNETS.items()}
    arrays = {f"{case}.{key}": array for case, (_, shapes) in models.items() for key, array in described(shapes).items()}
    for case, (name, kind, settings, steps) in SCHEDULES.items():
        drawing = noise((3, 8, 8))
        for module in (pipeline_ddpm, pipeline_ddim, scheduling_ddpm):
            module.randn_tensor = lambda *_, drawing=drawing, **__: torch.from_numpy(next(drawing))
        arrays[case] = drawn(models[name][0], getattr(diffusers, kind)(**settings), steps)
        check(case, arrays[case])
    np.savez_compressed(HERE / "diffusers_images.npz", **arrays)


if __name__ == "__main__":
    main()
