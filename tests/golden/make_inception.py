"""Make inception.npz: what the networks and the resizes of torch-fidelity, pytorch-fid and clean-fid compute.

    pip install torch==2.13.0 torchvision "numpy<2" pillow scipy tqdm requests
    pip install --no-deps torch-fidelity==0.4.0 pytorch-fid==0.3.0 clean-fid==0.1.35
    python tests/golden/make_inception.py

Weights and images are numbers that the test makes again, see inception_cases.py; no weights are downloaded.
"""

import hashlib
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytorch_fid.inception as theirs
import torch
from cleanfid.resize import build_resizer
from inception_cases import EVERY, SIZES, checkerboard, images, weight
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

HERE = Path(__file__).parent
TAPS = {"low": "64", "middle": "192", "high": "768", "pool": "2048", "logits": "logits_unbiased"}


def torch_fidelity(state):
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        return FeatureExtractorInceptionV3("inception", list(TAPS.values()), file.name)


def shapes():
    """Of all tensors of the file: of those of the network, which is told to load none."""
    with mock.patch.object(torch.nn.Module, "load_state_dict"):
        return {name: tuple(tensor.shape) for name, tensor in torch_fidelity({}).state_dict().items()}


def main() -> None:
    all_shapes = shapes()
    state = {name: torch.from_numpy(weight(name, shape)) for name, shape in all_shapes.items()}
    described = sorted((name, shape) for name, shape in all_shapes.items() if not name.endswith("num_batches_tracked"))
    arrays = {"tensors": np.array(hashlib.sha256(repr(described).encode()).hexdigest())}
    x = images(SIZES[1])

    network = torch_fidelity(state)
    spatial = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: spatial.append(output[:, :7].numpy()))
    with torch.no_grad():
        for tap, array in zip(TAPS, network(torch.from_numpy(x))):
            arrays[f"ttur.{tap}"] = array.numpy()
            print(tap, float(array.mean()), float(array.std()), float((array[0] - array[1]).std()))
    arrays["ttur.spatial"] = spatial[0].transpose(0, 2, 3, 1).reshape(len(x), -1)[:, ::5]

    theirs.load_state_dict_from_url = lambda *args, **keywords: state
    with torch.no_grad():
        outputs = theirs.InceptionV3(range(4)).eval()(torch.from_numpy(x).float() / 255)
    for tap, output in zip(TAPS, outputs):
        arrays[f"pytorch-fid.{tap}"] = output.mean((2, 3)).numpy()

    def tensorflow1(x):
        resized = interpolate_bilinear_2d_like_tensorflow1x(torch.from_numpy(x).float(), (299, 299), align_corners=False)
        return ((resized - 128) / 128).numpy()

    def bits(x):
        return np.array(hashlib.sha256(x.tobytes()).hexdigest())

    board = tensorflow1(checkerboard())
    arrays["ttur.checkerboard"], arrays["ttur.checkerboard.sha256"] = board[0, 0, ::EVERY, ::EVERY], bits(board)
    for size in SIZES:
        name, x = "x".join(map(str, size)), images(size, 1)
        arrays[f"ttur.{name}"] = bits(tensorflow1(x))
        half = torch.nn.functional.interpolate(torch.from_numpy(x).float() / 255, (299, 299), mode="bilinear",
                                               align_corners=False) * 2 - 1
        arrays[f"pytorch-fid.{name}"] = half[0, 0, ::EVERY, ::EVERY].numpy()
        clean = (build_resizer("clean")(x[0].transpose(1, 2, 0)) - 128) / 128
        arrays[f"clean-fid.{name}"] = clean[::EVERY, ::EVERY, 0]
    np.savez_compressed(HERE / "inception.npz", **arrays)


if __name__ == "__main__":
    main()
