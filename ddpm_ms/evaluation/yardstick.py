"""One side after another compared with the same one, which is measured once."""

from __future__ import annotations

from typing import Sequence

from ddpm_ms.evaluation.comparisons import Comparison, Measured
from ddpm_ms.evaluation.features import Features
from ddpm_ms.evaluation.protocol import measured
from ddpm_ms.evaluation.sides import Side
from ddpm_ms.parts import COMPARISONS
from ddpm_ms.runtime import Runtime

BATCH = 64  # images that a rank looks at at once


class Yardstick:
    """What stays of a comparison while other images come.

    Args:
        against: what to compare with; measured when it is first needed.
        names: of `COMPARISONS`.
        features: to compare in.
        runtime: the ranks.
    """

    def __init__(self, against: Side, names: Sequence[str], features: Features, runtime: Runtime) -> None:
        self.against, self.features, self.runtime = against, features, runtime
        self.comparisons: dict[str, Comparison] = {name: COMPARISONS[name] for name in names}
        self._theirs: Measured | None = None
        self._is_measured = False

    def scores(self, judged: Side) -> dict[str, float]:
        """The numbers of ``judged`` on rank 0, nothing on the others; all of them must ask."""
        two_sided = {name: comparison for name, comparison in self.comparisons.items() if not comparison.alone}
        if not self._is_measured:
            self._theirs = (measured(self.against, two_sided, self.features, self.runtime, BATCH, self.against.fixed)
                            if two_sided else Measured())
            self._is_measured = True
        ours = measured(judged, self.comparisons, self.features, self.runtime, BATCH)
        if ours is None or self._theirs is None:  # another rank than 0
            return {}
        return {name: comparison(ours, self._theirs).value for name, comparison in self.comparisons.items()}
