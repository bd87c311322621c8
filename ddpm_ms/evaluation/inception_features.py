"""The features of FID: Inception's last means, its logits, and its view of where things are."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from ddpm_ms import runtime
from ddpm_ms.errors import InputError, check_choice
from ddpm_ms.evaluation.features import Extracted, FeatureRequest
from ddpm_ms.evaluation.inception import SIZE, WIDTH, Inception
from ddpm_ms.evaluation.inception_weights import Weights, read_weights, what_to_get
from ddpm_ms.evaluation.resizing import PROTOCOLS, USUAL, bytes_of

BATCH = 16  # images that the network sees together: more need memory and save no time


class InceptionFeatures:
    """Features of `Inception` (see `ddpm_ms.evaluation.features.Features`).

    Args:
        weights: from `read_weights`.
        protocol: of `PROTOCOLS`.
    """

    name, width, gives = "inception", WIDTH, Extracted._fields

    def __init__(self, weights: Weights, protocol: str = USUAL) -> None:
        self.network = Inception(weights.folded, weights.classifier)
        self.protocol, self.identity = protocol, f"inception {weights.sha256[:16]} {protocol}"

    def __call__(self, images: np.ndarray) -> Extracted:
        """``spatial`` (N, 2023) is in TensorFlow's order: row, column, channel."""
        found = []
        for start in range(0, len(images), BATCH):
            taps = self.network(Tensor(PROTOCOLS[self.protocol](bytes_of(images[start:start + BATCH]), SIZE)))
            spatial = taps.spatial.asnumpy().transpose(0, 2, 3, 1)
            found.append((taps.pool.asnumpy(), taps.logits.asnumpy(), spatial.reshape(len(spatial), -1)))
        return Extracted(*map(np.concatenate, zip(*found)))


def inception(request: FeatureRequest) -> InceptionFeatures:
    """The features of FID, sFID and the Inception Score, with the weights in the user's file.

    Raises:
        InputError: no file is named, it is another, the protocol is none, or images have 2 or more than 3 channels.
    """
    protocol = check_choice("--protocol", request.protocol or USUAL, PROTOCOLS)
    bytes_of(np.zeros((0, *request.shape), np.float32))
    path = request.weights or runtime.inception_file()
    if path is None:
        raise InputError(f"features are inception, but no file of its weights is named: {what_to_get()}")
    return InceptionFeatures(read_weights(path), protocol)
