"""In-place draws from distributions. Arguments are looked at before anything is drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from graphc.core import Generator, TensorBase, assign, no_grad
from graphc.functions import distributions, pointwise, random
from graphc.functions.promotion import converted, get_default_dtype
from graphc.ir.types import DType, float64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
]


def _drawn(self: Tensor, value: Tensor) -> Tensor:
    with no_grad():
        value = converted(value, self.tensor_type.dtype)
    assign(self, value)
    return self


def _implemented(self: Tensor, kernel: str) -> DType:
    """The tensor's dtype. Raises NotImplementedError for one that holds no fractions, with PyTorch's words."""
    dtype = self.tensor_type.dtype
    if not dtype.is_floating_point:
        raise NotImplementedError(f"\"{kernel}\" not implemented for '{dtype.torch_name}'")
    return dtype


def _continuous(self: Tensor, distribution: str) -> DType:
    dtype = self.tensor_type.dtype
    if not dtype.is_floating_point:
        raise RuntimeError(
            f"{distribution} distribution is a continuous probability distribution. dtype must be a floating point but "
            f"you specified {dtype.torch_name}"
        )
    return dtype


def normal_(self: Tensor, mean: float = 0, std: float = 1, *, generator: Generator | None = None) -> Tensor:
    """Normal numbers. Returns the tensor. Raises RuntimeError for a negative std."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    dtype = _implemented(self, "normal_kernel_cpu")
    drawn = random.normal_values(self.tensor_type.shape, dtype, generator)
    return _drawn(self, pointwise.add(pointwise.mul(drawn, float(std)), float(mean)))


def uniform_(
    self: Tensor, a: float = 0, b: float = 1, *, generator: Generator | None = None, **ends: float
) -> Tensor:
    """Uniform numbers in [a, b) (PyTorch's `from` and `to`). Returns the tensor."""
    low, high = float(ends.get("from", a)), float(ends.get("to", b))
    if low > high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}")
    dtype = _implemented(self, "check_uniform_bounds")
    drawn = random.uniform_values(self.tensor_type.shape, dtype, generator)
    return _drawn(self, pointwise.add(pointwise.mul(drawn, high - low), low))


_EXACT = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
"""Bits of the significand: integers up to that power of two are exact."""


def random_(
    self: Tensor,
    low: int | None = None,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    **ends: int,
) -> Tensor:
    """Integers in [low, high), or [0, low) with one number (PyTorch's `from` and `to`). Returns the tensor.

    Without numbers they go from 0 to the largest of the dtype, for floats to the largest up to which all integers
    are exact. Raises RuntimeError for an empty range and for one that the dtype does not hold.
    """
    dtype = self.tensor_type.dtype
    low, high = ends.get("from", low), ends.get("to", high)
    if low is not None and high is None:
        low, high = 0, low
    if high is None:
        largest = 2 ** _EXACT[dtype.name] if dtype.is_floating_point else random.largest(dtype)
        high = min(largest + 1, 2**63 - 1)
    low = 0 if low is None else low
    random.check_range(low, high, dtype)
    return _drawn(self, random.integers(self.tensor_type.shape, low, high, dtype, generator))


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """1 with probability `p` (a number or tensor), else 0. Returns the tensor.

    Raises RuntimeError for a probability outside of [0, 1], of a tensor where values are computed.
    """
    if isinstance(p, TensorBase):
        p = random.probabilities(p)  # type: ignore[arg-type]
    elif not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    drawn = random.uniform_values(self.tensor_type.shape, get_default_dtype(), generator)
    return _drawn(self, pointwise.lt(drawn, p))


def exponential_(self: Tensor, lambd: float = 1, *, generator: Generator | None = None) -> Tensor:
    """Exponential numbers of a rate. Returns the tensor. Raises RuntimeError unless the rate is positive."""
    dtype = _continuous(self, "Exponential")
    return _drawn(self, distributions.exponential_values(self.tensor_type.shape, dtype, lambd, generator))


def log_normal_(
    self: Tensor, mean: float = 1, std: float = 2, *, generator: Generator | None = None
) -> Tensor:
    """Numbers whose logarithms are normal. Returns the tensor. Raises RuntimeError unless std is positive."""
    if std <= 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    dtype = _implemented(self, "log_normal_cpu")
    drawn = random.normal_values(self.tensor_type.shape, dtype, generator)
    return _drawn(self, pointwise.exp(pointwise.add(pointwise.mul(drawn, float(std)), float(mean))))


def cauchy_(
    self: Tensor, median: float = 0, sigma: float = 1, *, generator: Generator | None = None
) -> Tensor:
    """Numbers of a Cauchy distribution. Returns the tensor. Raises RuntimeError unless sigma is positive."""
    if sigma <= 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    dtype = _continuous(self, "Cauchy")
    # tan π(u - ½) is -cos πu / sin πu.
    angle = pointwise.mul(random.uniform_values(self.tensor_type.shape, dtype, generator), math.pi)
    drawn = pointwise.neg(pointwise.div(pointwise.cos(angle), pointwise.sin(angle)))
    return _drawn(self, pointwise.add(pointwise.mul(drawn, float(sigma)), float(median)))


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """The number of the first success, from 1 on, of trials with probability `p`. Returns the tensor.

    Raises RuntimeError unless 0 < p < 1.
    """
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    wide = self.tensor_type.dtype.bits == 64
    dtype = float64 if wide else get_default_dtype()
    drawn = distributions.exponential_values(self.tensor_type.shape, dtype, -math.log1p(-p), generator)
    return _drawn(self, pointwise.add(pointwise.floor(drawn), 1))
