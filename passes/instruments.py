"""Watchers of a pipeline: called before and after each pass, they look and may raise.

`Verify` runs by default; the others on demand. None changes the graph.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import field
from typing import Any, TextIO

import numpy as np

from graphc.ir.dims import Symbol, substitute, symbols
from graphc.ir.errors import VerifyError
from graphc.ir.graph import Graph
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.ir.verifier import Inferred, verify
from graphc.passes.base import Pass
from graphc.passes.context import CompileContext
from graphc.passes.pipeline import pass_text

__all__ = ["Instrument", "Print", "Snapshot", "Time", "Validate", "Verify", "same", "sample_inputs"]


class Instrument:
    """Hooks around each pass; both do nothing here."""

    def before(self, pass_: Pass, graph: Graph, context: CompileContext) -> None:
        """Called with the graph that `pass_` is about to change."""

    def after(self, pass_: Pass, graph: Graph, context: CompileContext, changed: bool) -> None:
        """Called with what `pass_` made of it; `changed` is False where nothing changed."""


class Verify(Instrument):
    """Checks the invariants of the graph after each pass that changed it."""

    def __init__(self) -> None:
        self._inferred: Inferred = {}

    def after(self, pass_: Pass, graph: Graph, context: CompileContext, changed: bool) -> None:
        if changed:
            verify(graph, self._inferred)


@dataclass
class Time(Instrument):
    """Collects the seconds that each pass took; `str` is a table."""

    rows: list[tuple[str, float]] = field(default_factory=list)
    _start: float = 0.0

    def before(self, pass_: Pass, graph: Graph, context: CompileContext) -> None:
        self._start = time.perf_counter()

    def after(self, pass_: Pass, graph: Graph, context: CompileContext, changed: bool) -> None:
        self.rows.append((pass_text(pass_), time.perf_counter() - self._start))

    def __str__(self) -> str:
        total = ("total", sum(s for _, s in self.rows))
        return "\n".join(f"{seconds * 1e3:10.3f} ms  {name}" for name, seconds in [*self.rows, total])


@dataclass
class Print(Instrument):
    """Writes the graph before the first pass and after each that changed it."""

    stream: TextIO | None = None
    _started: bool = False

    def before(self, pass_: Pass, graph: Graph, context: CompileContext) -> None:
        if not self._started:
            self._started = True
            self.write("start", graph)

    def after(self, pass_: Pass, graph: Graph, context: CompileContext, changed: bool) -> None:
        if changed:
            self.write(f"after {pass_text(pass_)}", graph)

    def write(self, title: str, graph: Graph) -> None:
        """One titled graph."""
        print(f"// {title}\n{graph}\n", file=self.stream or sys.stdout)


@dataclass
class Snapshot(Instrument):
    """Keeps the text of the graph after each pass: pairs of the pass's text and the graph's."""

    texts: list[tuple[str, str]] = field(default_factory=list)

    def after(self, pass_: Pass, graph: Graph, context: CompileContext, changed: bool) -> None:
        self.texts.append((pass_text(pass_), str(graph)))


@dataclass
class Validate(Instrument):
    """Runs the graph before and after each pass on sampled inputs and compares the outputs.

    Needs `context.evaluate`. A pass that is `exact` must keep every bit (any NaN equals any other);
    others are held to a tolerance. Inputs and outputs that a pass appended are not compared. Inputs
    that the graph itself rejects (an index out of range, say) say nothing, and are passed over.
    """

    samples: int = 2
    _cases: list[tuple[list[Any], list[Any]]] = field(default_factory=list)

    def before(self, pass_: Pass, graph: Graph, context: CompileContext) -> None:
        if context.evaluate is None:
            raise ValueError("validation needs an interpreter in CompileContext.evaluate")
        self._cases = []
        for seed in range(self.samples):
            try:
                inputs = sample_inputs([v.type for v in graph.inputs], seed)
                self._cases.append((inputs, list(context.evaluate(graph, *inputs))))
            except (ArithmeticError, IndexError, ValueError, RuntimeError):
                continue

    def after(self, pass_: Pass, graph: Graph, context: CompileContext, changed: bool) -> None:
        assert context.evaluate is not None
        for inputs, expected in self._cases:
            found = context.evaluate(graph, *inputs)
            scale = max(map(_largest, (*inputs, *expected)), default=1.0)
            for i, (a, b) in enumerate(zip(expected, found, strict=False)):
                if not same(a, b, exact=pass_.exact, scale=scale):
                    raise VerifyError(
                        f"pass {pass_text(pass_)} changed the meaning of graph @{graph.name}: "
                        f"output {i} was {_short(a)} and is {_short(b)}"
                    )


def sample_inputs(types: Sequence[TensorType], seed: int) -> list[Any]:
    """One array for each type: normal floats, integers 0 to 2, booleans; symbols get small sizes."""
    rng = np.random.default_rng(seed)
    known = {s for t in types for d in t.shape for s in symbols(d)}
    dims = {s: _size(s, rng) for s in sorted(known, key=str)}
    arrays = []
    for t in types:
        shape: Any = tuple(substitute(d, dims) for d in t.shape)
        high = 3 if t.dtype.is_integral else 2
        drawn = rng.standard_normal(shape) if t.dtype.is_floating_point else rng.integers(0, high, shape)
        arrays.append(np.asarray(drawn).astype(t.dtype.numpy))
    return arrays


def _size(symbol: Symbol, rng: Any) -> int:
    high = symbol.lo + 4 if symbol.hi is None else min(symbol.hi, symbol.lo + 4)
    return int(rng.integers(max(symbol.lo, min(2, high)), high + 1))


def same(a: Any, b: Any, *, exact: bool, scale: float = 1.0) -> bool:
    """True where two arrays agree: bit for bit up to the choice of NaN, or to a few units of rounding.

    Rounding is counted at magnitude `scale` too: sums of such numbers may cancel.
    """
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    nan = np.isnan(a)
    if not np.array_equal(nan, np.isnan(b)):
        return False
    if exact:
        return bool(a[~nan].tobytes() == b[~nan].tobytes())
    eps = {2: 2.0**-7, 4: 2.0**-20, 8: 2.0**-44}[a.dtype.itemsize]
    wide = a.astype(np.float64), b.astype(np.float64)
    return bool(np.allclose(*wide, rtol=eps, atol=eps * scale, equal_nan=True))


def _largest(a: Any) -> float:
    """The largest finite magnitude in a floating array; 1 of others, and at least 1."""
    if a.dtype.kind in "biu":
        return 1.0
    wide = np.abs(a.astype(np.float64))
    return float(np.max(wide[np.isfinite(wide)], initial=1.0))


def _short(a: Any) -> str:
    return np.array2string(np.asarray(a), threshold=8, edgeitems=2).replace("\n", "")
