"""Trained networks in the forms that other programs read: one file per form, named in `ddpm_ms.parts.TARGETS`."""

from ddpm_ms.export.run import export_run

__all__ = ["export_run"]
