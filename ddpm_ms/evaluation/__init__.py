"""Metrics on images and features."""

from ddpm_ms.evaluation.digits import DigitsReport, evaluate_digits
from ddpm_ms.evaluation.frechet import frechet_distance

__all__ = ["DigitsReport", "evaluate_digits", "frechet_distance"]
