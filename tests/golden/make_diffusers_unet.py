"""Make diffusers_unet.npz: what diffusers' UNet2DModel computes, and the gradient of each of its parameters.

    pip install --no-deps diffusers==0.42.0
    pip install torch==2.13.0 "numpy<2" huggingface_hub importlib_metadata filelock regex requests safetensors pillow
    python tests/golden/make_diffusers_unet.py

Weights and inputs are numbers that the test makes again, see ddpm_unet_cases.py. Of a gradient the file holds the length and its
products with a few directions that the test knows, too. Everything is computed in float64.
"""

from pathlib import Path

import numpy as np
import torch
from ddpm_unet_cases import CASES, CLASSES, TIMES, numbers, projections, weight
from diffusers import UNet2DModel

HERE = Path(__file__).parent


def main() -> None:
    arrays = {}
    for case, (keywords, _, size) in CASES.items():
        model = UNet2DModel(**{**dict(in_channels=3), **keywords}).double().eval()
        names = list(model.state_dict())
        model.load_state_dict({name: torch.from_numpy(weight(name, tuple(model.state_dict()[name].shape))) for name in names})
        x = torch.from_numpy(numbers("x", (len(TIMES), 3, *size)))
        classes = torch.tensor(CLASSES) if keywords.get("num_class_embeds") else None
        output = model(x, torch.tensor(TIMES), class_labels=classes).sample
        (output * torch.from_numpy(numbers("direction", tuple(output.shape)))).sum().backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
        assert list(gradients) == names
        arrays[f"{case}.output"] = output.detach().numpy().astype(np.float32)
        arrays[f"{case}.names"] = np.array(names)
        arrays[f"{case}.shapes"] = np.array([" ".join(map(str, gradients[name].shape)) for name in names])
        arrays[f"{case}.lengths"] = np.array([np.linalg.norm(gradients[name]) for name in names])
        arrays[f"{case}.products"] = np.stack([
            np.tensordot(projections(name, g.shape), g, g.ndim) for name, g in gradients.items()])
        print(case, sum(g.size for g in gradients.values()), len(names), float(output.detach().abs().max()),
              min(arrays[f"{case}.lengths"]), max(arrays[f"{case}.lengths"]))
    np.savez_compressed(HERE / "diffusers_unet.npz", **arrays)


if __name__ == "__main__":
    main()
