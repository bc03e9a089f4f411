"""Draws from distributions whose parameters are tensors: `multinomial`, `poisson`; and exponential numbers.

Parameters are looked at when values are computed. All arithmetic is in float64, whatever the parameters' dtype.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from graphc.core import Generator, no_grad
from graphc.functions import pointwise, reduction
from graphc.functions.checks import checked
from graphc.functions.control.whiles import while_loop
from graphc.functions.creation import zeros
from graphc.functions.ordering import order_of
from graphc.functions.promotion import as_operand, converted
from graphc.functions.random import uniform_values
from graphc.functions.recording import record
from graphc.ir.types import DType, Shape, float64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["exponential_values", "multinomial", "poisson"]


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with probability proportional to each row of `input`, [..., num_samples] in int64.

    Raises RuntimeError for an input that is no float tensor or has not 1 or 2 dimensions, for more samples than there are
    without replacement, and, where values are computed, for weights that are negative or not finite or whose
    sum is zero.
    """
    sizes = input.tensor_type.sizes
    if len(sizes) not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not input.tensor_type.dtype.is_floating_point:
        raise RuntimeError(
            "multinomial only supports floating-point dtypes for input, got: "
            f"{input.tensor_type.dtype.torch_name}"
        )
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > sizes[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    with no_grad():
        rows = _weights(converted(input, float64).reshape(-1, sizes[-1]))
        count = rows.tensor_type.sizes[0]
        if replacement:
            sums = reduction.cumsum(rows, 1)
            drawn = pointwise.mul(uniform_values((count, num_samples), float64, generator), sums[:, -1:])
            picks = reduction.sum(pointwise.le(sums[:, None, :], drawn[:, :, None]), 2)
        else:
            # The largest of log(u)/w are a sample without replacement (Efraimidis and Spirakis 2006).
            logs = pointwise.log(uniform_values((count, sizes[-1]), float64, generator))
            keys = pointwise.where(pointwise.gt(rows, 0), pointwise.div(pointwise.neg(logs), rows), math.inf)
            picks = order_of(keys)[:, :num_samples]
        return picks.reshape(*sizes[:-1], num_samples)


def _weights(rows: Tensor) -> Tensor:
    """Rows of weights, checked."""
    fine = pointwise.logical_and(pointwise.isfinite(rows), pointwise.ge(rows, 0))
    rows = checked(rows, fine, "probability tensor contains either `inf`, `nan` or element < 0")
    positive = pointwise.gt(reduction.sum(rows, 1, keepdim=True), 0)
    return checked(
        rows,
        positive.expand(rows.shape),
        "invalid multinomial distribution (sum of probabilities <= 0)",
    )


def exponential_values(shape: Shape, dtype: DType, rate: float, generator: Generator | None) -> Tensor:
    """Exponential numbers of a rate: -log(1 - u) / rate."""
    if rate <= 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={rate}")
    drawn = uniform_values(shape, dtype, generator)
    return pointwise.div(pointwise.neg(record("log1p", pointwise.neg(drawn))), rate)


MANY = 10.0
"""Rates below are drawn by inversion, others by rejection."""


def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Poisson numbers, each of the rate that an element of `input` gives, in its dtype.

    No gradient goes to the rates. Raises NotImplementedError for a tensor of no float dtype and, where values are computed,
    RuntimeError for a rate that is negative or NaN.
    """
    rates = as_operand(input, "poisson")
    dtype = rates.tensor_type.dtype
    if not dtype.is_floating_point:
        raise NotImplementedError(f"\"poisson_cpu\" not implemented for '{dtype.torch_name}'")
    with no_grad():
        valid = pointwise.ge(rates, 0)
        rates = checked(rates, valid, "invalid Poisson rate, expected rate to be non-negative")
        wide = converted(rates, float64)
        few = pointwise.lt(wide, MANY)
        small = _by_inversion(pointwise.where(few, wide, 0.0), generator)
        large = _by_rejection(pointwise.where(few, MANY, wide), few, generator)
        return converted(pointwise.where(few, small, large), dtype)


def _by_inversion(rates: Tensor, generator: Generator | None) -> Tensor:
    """The first k at which the distribution function is above a uniform number; rates below MANY."""
    drawn = uniform_values(rates.tensor_type.shape, float64, generator)
    first = pointwise.exp(pointwise.neg(rates))

    def behind(k: Any, term: Any, total: Any) -> Any:
        # Terms so small are lost in the sum, which may stay below the largest uniform number.
        return pointwise.logical_and(pointwise.le(total, drawn), pointwise.gt(term, 1e-18))

    def step(k: Any, term: Any, total: Any) -> Any:
        on = behind(k, term, total)
        k = pointwise.where(on, pointwise.add(k, 1), k)
        term = pointwise.where(on, pointwise.mul(term, pointwise.div(rates, pointwise.clamp(k, min=1))), term)
        return k, term, pointwise.where(on, pointwise.add(total, term), total)

    k: Tensor = while_loop(
        lambda *state: reduction.any(behind(*state)), step, (zeros(rates.shape, dtype=float64), first, first)
    )[0]
    return k


def _by_rejection(rates: Tensor, done: Tensor, generator: Generator | None) -> Tensor:
    """Rates from MANY on by transformed rejection (Hörmann 1993, PTRS); elements that are `done` are not drawn."""
    root, log_rate = pointwise.sqrt(rates), pointwise.log(rates)
    b = pointwise.add(pointwise.mul(root, 2.53), 0.931)
    a = pointwise.sub(pointwise.mul(b, 0.02483), 0.059)
    log_inverse = pointwise.log(pointwise.add(pointwise.div(1.1328, pointwise.sub(b, 3.4)), 1.1239))
    quick = pointwise.sub(0.9277, pointwise.div(3.6224, pointwise.sub(b, 2)))
    shape = rates.tensor_type.shape

    def step(k: Any, ready: Any) -> Any:
        u = pointwise.sub(uniform_values(shape, float64, generator), 0.5)
        v = pointwise.sub(1, uniform_values(shape, float64, generator))  # in (0, 1]: its logarithm is finite
        side = pointwise.sub(0.5, pointwise.abs(u))
        around = pointwise.add(pointwise.add(rates, 0.43), pointwise.mul(pointwise.div(a * 2, side) + b, u))
        found = pointwise.floor(around)
        inside = pointwise.logical_and(
            pointwise.ge(found, 0), pointwise.logical_or(pointwise.ge(side, 0.013), pointwise.le(v, side))
        )
        density = found * log_rate - rates - _log_factorial(pointwise.clamp(found, min=0))
        bound = pointwise.log(v) + log_inverse - pointwise.log(pointwise.div(a, side * side) + b)
        at_once = pointwise.logical_and(pointwise.ge(side, 0.07), pointwise.le(v, quick))
        taken = pointwise.logical_or(
            at_once, pointwise.logical_and(inside, pointwise.le(bound, density))
        ).logical_and(pointwise.logical_not(ready))
        return pointwise.where(taken, found, k), pointwise.logical_or(ready, taken)

    start = (zeros(rates.shape, dtype=float64), done)
    k: Tensor = while_loop(lambda k, ready: pointwise.logical_not(reduction.all(ready)), step, start)[0]
    return k


def _log_factorial(k: Tensor) -> Tensor:
    """log k! of whole numbers: Stirling's series from 10 on, reached by the recurrence from below."""
    x = pointwise.add(k, 1)
    near = pointwise.lt(x, 10)
    rising = functools.reduce(pointwise.mul, [pointwise.add(x, i) for i in range(10)])
    x = pointwise.where(near, pointwise.add(x, 10), x)
    inverse = pointwise.reciprocal(x)
    square = pointwise.mul(inverse, inverse)
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    value = (x - 0.5) * pointwise.log(x) - x + 0.5 * math.log(2 * math.pi) + series
    found: Tensor = pointwise.where(near, value - pointwise.log(pointwise.where(near, rising, 1.0)), value)
    return found
