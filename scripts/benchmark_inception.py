"""Time Inception's features beside torch-fidelity's, image by image the same work, in alternation.

    PEER/bin/pip install torch "numpy<2" pillow scipy tqdm && PEER/bin/pip install --no-deps torch-fidelity==0.4.0
    python scripts/benchmark_inception.py PEER/bin/python [BATCH [PAIRS]]

Each side takes 8-bit images of 32x32 to pool and logits, resize included, in its own process on all cores. Weights are zeros:
they do not change the time, and none have to be there.
"""

import os
import statistics
import subprocess
import sys
import time


def ours(batch):
    import numpy as np

    from ddpm_ms import runtime
    from ddpm_ms.config import RuntimeConfig
    from ddpm_ms.evaluation.inception_features import InceptionFeatures
    from ddpm_ms.evaluation.inception_weights import Weights, fold, shapes

    runtime.setup(RuntimeConfig(device="CPU"))
    features = InceptionFeatures(Weights(*fold({n: np.zeros(s, np.float32) for n, s in shapes().items()}), "0" * 64))
    images = np.random.default_rng(0).integers(0, 256, (batch, 3, 32, 32)).astype(np.float32) / 255
    return lambda: features(images)


def theirs(batch):
    from unittest import mock

    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with mock.patch("torch.load"), mock.patch.object(torch.nn.Module, "load_state_dict"):
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], "nothing")
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)

    def work():
        with torch.inference_mode():
            return [features.numpy() for features in network(images)]

    return work


def serve(side, batch):
    work = {"ours": ours, "theirs": theirs}[side](int(batch))
    for _ in range(2):  # which compile, and warm caches
        work()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        work()
        print(time.perf_counter() - began, flush=True)


def main(peer, batch="16", pairs="7"):
    sides = {}
    for side, python in (("ours", sys.executable), ("theirs", peer)):
        sides[side] = subprocess.Popen([python, __file__, "--serve", side, batch], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True, env=dict(os.environ))
        while sides[side].stdout.readline().strip() != "ready":
            if sides[side].poll() is not None:
                sys.exit(f"{side} ended with status {sides[side].returncode}")
    taken = {side: [] for side in sides}
    for _ in range(int(pairs)):
        for side, process in sides.items():
            process.stdin.write("\n")
            process.stdin.flush()
            taken[side].append(float(process.stdout.readline()) / int(batch))
    for side, process in sides.items():
        process.stdin.close()
        process.wait()
        print(f"{side}: {statistics.median(taken[side]):.4f} s for an image, fastest {min(taken[side]):.4f}")
    ratio = statistics.median(a / b for a, b in zip(taken["ours"], taken["theirs"]))
    fastest = min(taken["ours"]) / min(taken["theirs"])
    print(f"ours / theirs: {ratio:.2f} (median over {pairs} pairs of batches of {batch}), fastest {fastest:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    elif len(sys.argv) in (2, 3, 4):
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)
