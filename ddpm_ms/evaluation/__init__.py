"""Metrics on images and features."""

from ddpm_ms.evaluation.classifier import ClassifierJudge, ClassifierReport
from ddpm_ms.evaluation.frechet import frechet_distance
from ddpm_ms.evaluation.nearest import NearestReport, evaluate_nearest, nearest_images

__all__ = ["ClassifierJudge", "ClassifierReport", "NearestReport", "evaluate_nearest", "frechet_distance", "nearest_images"]
