"""Metrics of samples and of the process, and what they are given."""

from ddpm_ms.evaluation.classifier import ClassifierJudge, ClassifierReport, classifier_judge
from ddpm_ms.evaluation.frechet import frechet_distance
from ddpm_ms.evaluation.nearest import NearestReport, evaluate_nearest, nearest_images
from ddpm_ms.evaluation.subject import Subject

__all__ = ["ClassifierJudge", "ClassifierReport", "NearestReport", "Subject", "classifier_judge", "evaluate_nearest",
           "frechet_distance", "nearest_images"]
