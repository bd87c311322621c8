"""Metrics on images and features."""

from ddpm_ms.evaluation.digits import DigitsReport, evaluate_digits
from ddpm_ms.evaluation.frechet import frechet_distance
from ddpm_ms.evaluation.nearest import NearestReport, evaluate_nearest, nearest_images

__all__ = ["DigitsReport", "NearestReport", "evaluate_digits", "evaluate_nearest", "frechet_distance", "nearest_images"]
