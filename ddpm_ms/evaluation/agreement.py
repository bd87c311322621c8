"""Does a network with classes draw what it is asked for? The classifier of its data says what it recognises."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.features import FeatureRequest
from ddpm_ms.evaluation.residual_classifier import classifier
from ddpm_ms.evaluation.subject import Subject
from ddpm_ms.visual import to_uint8

SAMPLES = 256  # unless more or fewer are asked for


@dataclass(frozen=True)
class AgreementReport:
    """How many of ``samples`` are recognised as the class that they were asked for, and how many real images as theirs."""

    samples: int
    agree: float
    real: float
    identity: str  # of the classifier

    @property
    def numbers(self) -> dict[str, float]:
        """For evaluations.jsonl."""
        return {"agreement": self.agree, "real_agreement": self.real}

    def __str__(self) -> str:
        return (f"recognised as the class asked for: {self.agree:.1%} of {self.samples} samples, {self.real:.1%} of real images "
                f"that the classifier was not trained on\nin: {self.identity}")


def agreement(subject: Subject) -> AgreementReport:
    """The share of samples in which the classifier that ``--train-classifier`` trained sees the class that was asked for.

    Raises:
        InputError: the network has no classes, or the classifier is not trained.
    """
    count = subject.count or SAMPLES
    asked = subject.labels(count)
    if asked is None:
        raise InputError("the network has no classes, allowed with --metric agreement: one with model.num_classes")
    data = subject.config.data
    features = classifier(FeatureRequest((data.channels, *data.size), data))  # before anything is drawn, which may take long
    seen = features.recognised(to_uint8(subject.draw(count)))
    return AgreementReport(count, float((seen == asked).mean()), features.accuracy, features.identity)
