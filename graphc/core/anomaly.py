"""Anomaly mode: a backward that makes NaN says which line of the forward pass it comes from.

The pending recording is run op by op in NumPy, and the first result of the backward part that holds
NaN is looked for; nothing is changed by it. Compiled functions have checks in their programs instead
(`passes/differentiate.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.core.evaluate import pending_build
from graphc.core.node import Node
from graphc.core.recording import Recording
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.lazy import lazy_module
from graphc.runtime.state import bump_epoch

if TYPE_CHECKING:
    from graphc.backends.reference import interpreter
    from graphc.passes import gradients
else:
    interpreter = lazy_module("graphc.backends.reference.interpreter")
    gradients = lazy_module("graphc.passes.gradients")

__all__ = ["Anomaly", "anomaly", "check_gradients"]


class Anomaly:
    """Whether backward passes are looked at. One setting of the process, as in PyTorch."""

    __slots__ = ("checks_nan", "enabled")

    def __init__(self) -> None:
        self.set(False, True)

    def set(self, enabled: bool, check_nan: bool) -> None:
        """Turns the mode on or off; without `check_nan` it has no effect. Compiled functions look at it again."""
        bump_epoch()
        self.enabled = enabled
        self.checks_nan = enabled and check_nan


anomaly = Anomaly()


def check_gradients(recording: Recording, start: int, found: Sequence[Node]) -> None:
    """Raises RuntimeError where what was recorded from entry `start` on, a backward pass, makes NaN.

    `found` are the gradients that it gives.
    """
    build, memories = pending_build(recording)
    graph = build.graph
    kept = [build.values[n] for n in found if n in build.values]
    first = sum(len(e.attrs["plan"].graph) if "plan" in e.attrs else 1 for e in recording.entries[:start])
    forward = [op for i, op in enumerate(graph.ops) if i < first]
    moved = gradients.expand_gradients(graph)
    before = set(forward)
    values: dict[Value, object] = {v: m.array for v, m in zip(graph.inputs, memories, strict=True)}
    needed = _needed(graph, [moved.get(v, v) for v in kept])
    for op in graph.ops:
        if op not in needed:
            continue
        results = interpreter.run_op(op, [values[v] for v in op.operands], {})
        values.update(zip(op.results, results, strict=True))
        if op not in before and any(a.dtype.kind == "f" and np.isnan(a).any() for a in results):
            raise RuntimeError(_message(op, forward))


def _needed(graph: Graph, values: Sequence[Value]) -> set[Op]:
    wanted, found = set(values), set()
    for op in reversed(list(graph.ops)):
        if any(r in wanted for r in op.results):
            found.add(op)
            wanted.update(op.operands)
    return found


def _message(op: Op, forward: Sequence[Op]) -> str:
    names = dict.fromkeys(f.name for f in forward if op.loc is not None and f.loc == op.loc)
    name = "".join(part.title() for n in list(names)[-1:] for part in n.split("_")) or "Gradient"
    where = f" The forward call is at {op.loc}" if op.loc is not None else ""
    ops = f" (operations on that line: {', '.join(names)})" if len(names) > 1 else ""
    return f"Function '{name}Backward0' returned nan values in its 0th output.{where}{ops}"
