"""The exact GELU."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from ddpm_ms import runtime

# W. H. Press et al., "Numerical Recipes in C", 2nd edition (1992), section 6.2, erfcc: the highest power of t first.
_ERFC = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
         -1.26551223)


class _PortableGELU(nn.Cell):
    """max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, where erfc is t exp(-z^2 + a polynomial in t) with t = 1 / (1 + z / 2), which
    differs from it by 1.2e-7 of its value at most."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.abs, self.exp, self.pow = nn.ReLU(), ops.Abs(), ops.Exp(), ops.Pow()

    def construct(self, x: Tensor) -> Tensor:
        size = self.abs(x)
        t = self.pow(1.0 + size * 0.5**1.5, -1.0)
        exponent = t * _ERFC[0]
        for coefficient in _ERFC[1:-1]:
            exponent = (exponent + coefficient) * t
        return self.relu(x) - size * t * self.exp(exponent + _ERFC[-1] - size * size * 0.5) * 0.5


def exact_gelu() -> nn.Cell:
    """The Cell of x times the normal distribution function of x (arXiv:1606.08415); in a portable network of operators that
    MindSpore can say in ONNX, of which ``Erf`` is none."""
    return _PortableGELU() if runtime.is_portable() else nn.GELU(approximate=False)
