"""Counter-based random numbers: every draw is a pure function of (seed, purpose, step, index).

Nothing here has a state that must be saved: a resumed run, another batch size or another number of ranks asks for the
same key and gets the same numbers. The generator is Philox-4x64 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011): the seed and the purpose form its key, step and index the high words of its counter, and the 2^128
low counter values are left for the draw itself, so two keys never share a stream.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

# The number of a purpose is part of every published result: never renumber, only append.
PURPOSES = {"data_order": 1, "timestep": 2, "noise": 3, "self_condition": 4, "label_dropout": 5, "dropout": 6,
            "flip": 7, "sample": 8, "weights": 9, "endpoint": 10, "held_out": 11, "validation_timestep": 12,
            "validation_noise": 13, "offset_noise": 14}


def generator(seed: int, purpose: str, step: int = 0, index: int = 0) -> np.random.Generator:
    """NumPy generator for one key.

    Args:
        seed: 0 to 2^64 - 1.
        purpose: a key of `PURPOSES`.
        step: what the numbers are for in time (an optimizer step, an epoch, a sampling step), from 0.
        index: the sample's position in the global batch, or the image's number when sampling, from 0.
    """
    key = np.array([seed, PURPOSES[purpose]], dtype=np.uint64)
    counter = np.array([0, 0, index, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(seed: int, purpose: str, step: int, indices: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 array (len(indices), *shape); row i depends on ``indices[i]``, not on its neighbours."""
    out = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(out, indices):
        generator(seed, purpose, step, index).standard_normal(out=row, dtype=np.float32)
    return out
