"""Make exports_read_back.npz: what diffusers and denoising-diffusion-pytorch draw with what `ddpm-ms export` wrote.

Once where ddpm_ms is installed, and once where they are:

    python tests/golden/make_exports_read_back.py write FOLDER
    pip install --no-deps diffusers==0.42.0 denoising-diffusion-pytorch==2.3.4
    pip install torch==2.13.0 "numpy<2" huggingface_hub importlib_metadata filelock regex requests safetensors pillow einops \\
        ema-pytorch accelerate scipy tqdm
    python tests/golden/make_exports_read_back.py read FOLDER

The file holds the images and, as texts, the settings by which they were drawn.
"""

import ast
import importlib
import sys
from pathlib import Path

import numpy as np
from export_cases import CASES, IMAGES, STEPS, noise

HERE = Path(__file__).parent


def write(folder: Path) -> None:
    sys.path.insert(0, str(HERE.parent))
    from conftest import save_run

    from ddpm_ms.export import export_run

    for name, (form, overrides) in CASES.items():
        run = save_run(folder / "runs" / name, overrides)
        export_run(run, form, folder / (name if form == "diffusers" else f"{name}.safetensors"))


def read(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    arrays = {}
    for name, (form, _) in CASES.items():
        found = from_diffusers(folder / name) if form == "diffusers" else from_lucidrains(folder / f"{name}.safetensors")
        arrays.update({f"{name}.{key}": value for key, value in found.items()})
        print(name, {key: getattr(value, "shape", "") for key, value in found.items()}, float(found["images"].std()))
    np.savez_compressed(HERE / "exports_read_back.npz", **arrays)


def from_diffusers(folder: Path) -> dict:
    import diffusers.schedulers.scheduling_ddpm as module
    import torch
    from diffusers import DDPMPipeline, UNet2DModel
    from safetensors.torch import load_file

    pipeline = DDPMPipeline.from_pretrained(folder)
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    state = pipeline.unet.state_dict()
    assert state.keys() == stored.keys() and all(torch.equal(state[key], stored[key]) for key in state)
    assert isinstance(pipeline.unet, UNet2DModel)
    size = pipeline.unet.config.sample_size
    shape = (pipeline.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
    drawn = iter(map(torch.from_numpy, noise(shape)))
    module.randn_tensor = lambda *_, **__: next(drawn)
    sys.modules["diffusers.pipelines.ddpm.pipeline_ddpm"].randn_tensor = module.randn_tensor
    images = pipeline(IMAGES, num_inference_steps=STEPS, output_type="np").images.transpose(0, 3, 1, 2)
    texts = {path.stem: path.read_text() for path in folder.glob("*/*.json")}
    return {"images": images, **{key: np.array(text) for key, text in texts.items()}}


def from_lucidrains(path: Path) -> dict:
    import torch
    from safetensors.torch import load_file, safe_open

    with safe_open(path, "pt") as file:
        texts = {name: text for name, text in file.metadata().items() if name != "format"}
    importlib.import_module("make_lucidrains")  # satisfies the imports that are not needed
    theirs = importlib.import_module("denoising_diffusion_pytorch")
    unet = theirs.Unet(**ast.literal_eval(texts["Unet"])).eval()
    unet.load_state_dict(load_file(path), strict=True)
    process, = texts.keys() - {"Unet"}
    diffusion = getattr(theirs, process)(unet, **ast.literal_eval(texts[process]))
    drawn = iter(map(torch.from_numpy, noise((unet.channels, *diffusion.image_size))))
    real = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = lambda *_, **__: next(drawn)
    images = diffusion.sample(batch_size=IMAGES).numpy()
    torch.randn, torch.randn_like = real
    return {"images": images, **{key: np.array(text) for key, text in texts.items()}}


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
