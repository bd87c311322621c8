"""What training measures and draws, as event files for TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_ms.errors import needed

log = logging.getLogger("ddpm_ms")


def check_installed() -> None:
    """Raise `InputError` unless there is a writer of event files."""
    with needed("tensorboardX", "training.tensorboard is True"):
        import tensorboardX  # noqa: F401


class EventFiles:
    """Event files in ``folder``, as `tensorboard --logdir RUN` shows them.

    Args:
        folder: where they go; made if it is not there.
        step: optimizer steps done. What an earlier process wrote of later steps is no longer shown.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, row: dict[str, Any]) -> None:
        """Every number of a row of metrics.jsonl but its step and its time, which event files have of their own."""
        group = "evaluation" if "evaluated" in row else "training"
        for name, value in row.items():
            if name not in ("step", "time", "evaluated") and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, row["step"])
        self._writer.flush()

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """An image, uint8 (H, W) or (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HW" if pixels.ndim == 2 else "HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
