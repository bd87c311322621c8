"""Pictures: grids, animations, curves, and the page that shows a run. NumPy, Pillow and matplotlib only."""

from ddpm_ms.visual.captions import class_captions
from ddpm_ms.visual.images import (
    FRAMES,
    frame_steps,
    save_gif,
    save_grid,
    save_image,
    save_pairs,
    save_strip,
    to_grid,
    to_uint8,
)
from ddpm_ms.visual.plots import save_benchmark, save_growth, save_loss_curve, save_losses, save_schedules
from ddpm_ms.visual.report import save_report
from ddpm_ms.visual.runs import read_metrics, rows_or_none, short_names

__all__ = ["FRAMES", "class_captions", "frame_steps", "read_metrics", "rows_or_none", "save_benchmark", "save_gif", "save_grid",
           "save_growth", "save_image", "save_loss_curve", "save_losses", "save_pairs", "save_report", "save_schedules",
           "save_strip", "short_names", "to_grid", "to_uint8"]
