"""Draws arrays for tests in the distributions that `graphc.ir.families.Sample.draw` names."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir.families import Sample
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType

SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -7.25, 31.0)


def draw(type_: TensorType, how: str, rng: Any) -> Any:
    """An array of a static type. Raises KeyError for a distribution that is none."""
    shape, dtype = type_.sizes, type_.dtype
    if how.startswith("index:"):
        return rng.integers(0, int(how.removeprefix("index:")), shape).astype(dtype.numpy)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integral:
        return _integers(type_, how, rng)
    normal = rng.standard_normal(shape)
    pick = rng.choice(SPECIAL, shape)
    match how:
        case "normal" | "bool":
            drawn = normal
        case "positive":
            drawn = np.abs(normal) + 0.1
        case "unit":
            drawn = np.clip(normal / 3, -1, 1)
        case "nonzero":
            drawn = np.where(normal < 0, -1, 1) * (np.abs(normal) + 0.1)
        case "any":
            drawn = np.where(rng.random(shape) < 0.3, pick, normal * 20)
        case "special":
            drawn = np.where(
                rng.random(shape) < 0.3, rng.choice((np.inf, -np.inf, np.nan, -0.0), shape), normal * 20
            )
        case _:
            raise KeyError(how)
    return np.asarray(drawn).astype(dtype.numpy)


def _integers(type_: TensorType, how: str, rng: Any) -> Any:
    signed = type_.dtype.kind == "int"
    low, high = (-9 if signed else 0), 10
    if how in ("any", "special"):
        low, high = (-100 if signed else 0), 100
    drawn = rng.integers(low, high, type_.sizes)
    if how in ("positive", "nonzero"):
        drawn = np.where(drawn == 0, 1, np.abs(drawn) if how == "positive" else drawn)
    if how == "unit":
        drawn = np.sign(drawn)
    return np.asarray(drawn).astype(type_.dtype.numpy)


def draw_sample(sample: Sample, seed: int = 0) -> list[Any]:
    """One array for each operand of a sample."""
    rng = np.random.default_rng(seed)
    if sample.make is not None:
        return list(sample.make(rng))
    hows = [*sample.draw, *["normal"] * (len(sample.operands) - len(sample.draw))]
    return [draw(t, how, rng) for t, how in zip(sample.operands, hows, strict=True)]


def regions_of(sample: Sample) -> list[Graph]:
    """Copies of a sample's regions, for one op."""
    return [region.copy() for region in sample.regions]


def draw_like(type_: TensorType, seed: int = 0) -> Any:
    """A normally distributed array of a type."""
    return draw(type_, "normal", np.random.default_rng(seed))
