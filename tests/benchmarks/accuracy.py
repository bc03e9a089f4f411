"""Rounding errors of each row on graphc and on PyTorch, against the same model in PyTorch's float64.

    python -m tests.benchmarks.accuracy [ROW ...]

Compared are the model's outputs and, for training rows, all parameters' gradients. Errors of a tensor are
in units of the root mean square of its float64 values, so that small and large tensors count alike. Every row is
computed on several inputs, small ones on more until their error is not a matter of luck; the mean square over all
inputs counts. Where a float32 activation falls on the other side of zero than the float64 one, which happens to every
framework on some inputs, a ReLU network's gradients differ by far more than rounding: `typical` is the ratio at the
median input, which such inputs do not move. Exits with 1 where a ratio exceeds the bound.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.benchmarks import models
from tests.benchmarks.frameworks import framework
from tests.benchmarks.models import Framework
from tests.benchmarks.workloads import LOSSES, MODELS, ROW_DATA, ROWS, RowData, chosen

__all__ = ["BOUND", "Errors", "compare"]

BOUND = 1.25
_LEAST_ELEMENTS = 4000
_LEAST_DRAWS = 5
_MOST_DRAWS = 200


@dataclass
class Errors:
    """Relative root-mean-square errors of one kind of result ("outputs" or "gradients")."""

    row: str
    kind: str
    graphc: float
    torch: float
    typical: float = 1.0
    worst: str = ""

    @property
    def ratio(self) -> float:
        """graphc's error over PyTorch's; 1 where both are exact."""
        if self.torch == 0.0:
            return 1.0 if self.graphc == 0.0 else math.inf
        return self.graphc / self.torch


class Model:
    """A row's model on one framework: outputs, and gradients of its loss."""

    def __init__(self, f: Framework, data: RowData) -> None:
        self._f = f
        self._data = data
        model = models.initialise(f, MODELS[data.model](f))
        self._names = [name for name, _ in model.named_parameters()]
        if data.y is None:
            model.eval()
            self._run = f.compile(lambda x: (model(x),))
            return
        criterion = LOSSES[data.loss](f)

        def step(x: Any, y: Any) -> Any:
            model.zero_grad()
            result = model(x)
            criterion(result, y).backward()
            return (result.detach(), *(p.grad for p in model.parameters()))

        self._run = f.compile(step)

    def results(self, seed: int) -> dict[str, np.ndarray]:
        """Arrays by name: "outputs", and the parameters' names for their gradients."""
        rng = np.random.default_rng(seed)
        arguments = [self._f.tensor(draw(rng)) for draw in (self._data.x, self._data.y) if draw is not None]
        with self._f.torch.set_grad_enabled(self._data.y is not None):
            found = self._run(*arguments)
        return {
            n: np.array(v.detach().numpy()) for n, v in zip(("outputs", *self._names), found, strict=False)
        }


def compare(row: str) -> list[Errors]:
    """The errors of a row's outputs and gradients."""
    data = ROW_DATA[row]
    torch = importlib.import_module("torch")
    reference: list[dict[str, np.ndarray]] = []
    eager = framework("torch eager", 1)
    torch.set_default_dtype(torch.float64)
    try:
        exact = Model(eager, data)
        draws = _LEAST_DRAWS
        while len(reference) < draws:
            reference.append(exact.results(len(reference)))
            draws = max(draws, min(_MOST_DRAWS, _LEAST_ELEMENTS // reference[0]["outputs"].size))
        del exact
    finally:
        torch.set_default_dtype(torch.float32)
    squares = {
        name: _squares(Model(framework(name, 1), data), reference) for name in ("torch eager", "graphc")
    }
    made = [_errors(row, "outputs", squares, ["outputs"])]
    if data.y is not None:
        made.append(_errors(row, "gradients", squares, [n for n in reference[0] if n != "outputs"]))
    return made


def _squares(model: Model, reference: Sequence[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """By tensor: the mean squared relative error on each input."""
    found: dict[str, list[float]] = {name: [] for name in reference[0]}
    for seed, wanted in enumerate(reference):
        got = model.results(seed)
        for name, exact in wanted.items():
            scale = math.sqrt(float(np.mean(exact * exact))) or 1.0
            error = (got[name].astype(np.float64) - exact) / scale
            found[name].append(float(np.mean(error * error)))
    return found


def _errors(row: str, kind: str, squares: dict[str, dict[str, list[float]]], names: Sequence[str]) -> Errors:
    """Each tensor counts alike, whatever its size, and so does each input."""

    def error(peer: str, chosen: Sequence[str], over: Callable[[list[float]], float]) -> float:
        return math.sqrt(sum(over(squares[peer][n]) for n in chosen) / len(chosen))

    graphc, torch = (error(peer, names, statistics.fmean) for peer in ("graphc", "torch eager"))
    typical = error("graphc", names, statistics.median) / (
        error("torch eager", names, statistics.median) or 1e-12
    )
    ratios = {
        n: error("graphc", [n], statistics.fmean) / (error("torch eager", [n], statistics.fmean) or 1e-12)
        for n in names
    }
    worst = max(ratios, key=lambda n: ratios[n])
    return Errors(row, kind, graphc, torch, typical, f"{worst} {ratios[worst]:.2f}×")


def main() -> None:
    """Prints the errors of the chosen rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW")
    failed = False
    print(f"{'row':16} {'of':10} {'graphc':>10} {'torch':>10} {'ratio':>7} {'typical':>8}  worst tensor")
    for workload in chosen(ROWS, parser.parse_args().rows):
        try:
            found = compare(workload.name)
        except Exception as error:
            print(f"{workload.name:16} not there: {type(error).__name__}: {error}"[:110])
            continue
        for e in found:
            failed |= e.ratio > BOUND
            print(
                f"{e.row:16} {e.kind:10} {e.graphc:10.2e} {e.torch:10.2e} {e.ratio:6.2f}× {e.typical:7.2f}×  {e.worst}",
                flush=True,
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
