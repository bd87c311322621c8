"""What the two settings of precision that were left out become."""

from __future__ import annotations

from ddpm_ms.errors import InputError


def resolve_precision(precision: str | None, amp_level: str | None) -> tuple[str, str]:
    """(precision, amp_level), each completed from the other: O0 is fp32; O1 and O2 alone are fp16; a 16-bit type alone is O2.

    Raises:
        InputError: they contradict each other.
    """
    precision = precision or ("fp16" if amp_level not in (None, "O0") else "fp32")
    amp_level = amp_level or ("O0" if precision == "fp32" else "O2")
    if (precision == "fp32") != (amp_level == "O0"):
        raise InputError(f"training.amp_level is {amp_level} with training.precision={precision}, allowed: "
                         f"{'O0' if precision == 'fp32' else 'O1, O2'}")
    return precision, amp_level
