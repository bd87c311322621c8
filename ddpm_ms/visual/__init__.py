"""Pictures: grids, animations, curves. NumPy, Pillow and matplotlib only."""

from ddpm_ms.visual.images import save_gif, save_grid, save_image, save_strip, to_grid, to_uint8
from ddpm_ms.visual.plots import save_benchmark, save_loss_curve

__all__ = ["save_benchmark", "save_gif", "save_grid", "save_image", "save_loss_curve", "save_strip", "to_grid", "to_uint8"]
