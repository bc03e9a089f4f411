"""Rounding errors of each row on graphc and on PyTorch, against the same model in PyTorch's float64.

    python -m tests.benchmarks.accuracy [ROW ...]

Compared are the model's outputs and, for training rows, all parameters' gradients. Errors of a tensor are
in units of the root mean square of its float64 values, so that small and large tensors count alike. Every row is
computed on several inputs, small ones on more until their error is not a matter of luck; the mean square over all
inputs counts.

Where a float32 activation falls on the other side of zero than the float64 one, or another element of a window is the
largest, which happens to every framework on some inputs, a network's gradients differ by far more than
rounding, and which framework has more of that is luck. `rounding` is therefore the ratio of errors against the
float64 model that takes the float32 run's own decisions: ReLU multiplies by its mask, max-pooling takes the elements
that it took. Exits with 1 where either ratio exceeds the bound.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    rounding: float = 1.0
    """The ratio where the float64 model takes each framework's own decisions."""
    worst: str = ""

    @property
    def ratio(self) -> float:
        """graphc's error over PyTorch's; 1 where both are exact."""
        if self.torch == 0.0:
            return 1.0 if self.graphc == 0.0 else math.inf
        return self.graphc / self.torch


class Decisions:
    """Which way ReLU and max-pooling of a model went, in the order in which they ran.

    While `taken` is None they are noted; otherwise they are taken from there.
    """

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.taken: Sequence[Any] | None = None

    def _next(self) -> Any:
        assert self.taken is not None
        self.noted.append(None)
        return self.taken[len(self.noted) - 1]

    def framework(self, f: Framework) -> Framework:
        """The framework with modules that note their decisions or take them."""
        nn, functional, decisions = f.nn, f.functional, self

        class ReLU(nn.Module):  # type: ignore[misc,name-defined]
            def forward(self, x: Any) -> Any:
                if decisions.taken is not None:
                    return x * decisions._next()
                decisions.noted.append(x > 0)
                return functional.relu(x)

        class MaxPool2d(nn.Module):  # type: ignore[misc,name-defined]
            def __init__(self, *options: int) -> None:
                super().__init__()
                self.options = options

            def forward(self, x: Any) -> Any:
                if decisions.taken is not None:
                    at = decisions._next()
                    return x.flatten(2).gather(2, at.flatten(2)).view(at.shape)
                values, at = functional.max_pool2d(x, *self.options, return_indices=True)
                decisions.noted.append(at)
                return values

        modules = {name: getattr(nn, name) for name in dir(nn) if not name.startswith("__")}
        return replace(f, nn=types.SimpleNamespace(**{**modules, "ReLU": ReLU, "MaxPool2d": MaxPool2d}))


class Model:
    """A row's model on one framework: outputs, and gradients of its loss."""

    def __init__(self, f: Framework, data: RowData) -> None:
        self.decisions = Decisions()
        self._f = f = self.decisions.framework(f)
        self._data = data
        model = models.initialise(f, MODELS[data.model](f))
        self._names = ["outputs"]
        if data.y is None:
            model.eval()
            self._run = f.compile(lambda x: (model(x), *self.decisions.noted))
            return
        self._names += [name for name, _ in model.named_parameters()]
        criterion = LOSSES[data.loss](f)

        def step(x: Any, y: Any) -> Any:
            model.zero_grad()
            result = model(x)
            criterion(result, y).backward()
            return (result.detach(), *(p.grad for p in model.parameters()), *self.decisions.noted)

        self._run = f.compile(step)

    def results(
        self, seed: int, taken: Sequence[np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Arrays by name ("outputs", and the parameters' names for their gradients), and the decisions."""
        rng = np.random.default_rng(seed)
        arguments = [self._f.tensor(draw(rng)) for draw in (self._data.x, self._data.y) if draw is not None]
        self.decisions.noted.clear()
        self.decisions.taken = None if taken is None else [self._f.torch.tensor(t) for t in taken]
        with self._f.torch.set_grad_enabled(self._data.y is not None):
            found = [None if v is None else np.array(v.detach().numpy()) for v in self._run(*arguments)]
        count = len(self._names)
        return dict(zip(self._names, found[:count], strict=True)), found[count:]


class _Exact:
    """A row's model in PyTorch's float64."""

    def __init__(self, data: RowData) -> None:
        self._torch = importlib.import_module("torch")
        with self._wide():
            self._model = Model(framework("torch eager", 1), data)

    @contextlib.contextmanager
    def _wide(self) -> Iterator[None]:
        before = self._torch.get_default_dtype()
        self._torch.set_default_dtype(self._torch.float64)
        try:
            yield
        finally:
            self._torch.set_default_dtype(before)

    def results(self, seed: int, taken: Sequence[np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """See `Model.results`."""
        with self._wide():
            return self._model.results(seed, taken)[0]


_Squares = dict[str, list[dict[str, float]]]
"""By framework: for each input, the mean squared relative error of each tensor."""


def compare(row: str) -> list[Errors]:
    """The errors of a row's outputs and gradients."""
    data = ROW_DATA[row]
    exact = _Exact(data)
    peers = {name: Model(framework(name, 1), data) for name in ("torch eager", "graphc")}
    plain: _Squares = {name: [] for name in peers}
    alike: _Squares = {name: [] for name in peers}
    seed, draws = 0, _LEAST_DRAWS
    while seed < draws:
        wanted = exact.results(seed)
        for name, model in peers.items():
            got, decisions = model.results(seed)
            plain[name].append(_squares(got, wanted))
            same = exact.results(seed, decisions) if decisions else wanted
            alike[name].append(_squares(got, same))
        draws = max(draws, min(_MOST_DRAWS, _LEAST_ELEMENTS // wanted["outputs"].size))
        seed += 1
    made = [_errors(row, "outputs", plain, alike, ["outputs"])]
    if data.y is not None:
        made.append(_errors(row, "gradients", plain, alike, [n for n in wanted if n != "outputs"]))
    return made


def _squares(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for name, exact in wanted.items():
        scale = math.sqrt(float(np.mean(exact * exact))) or 1.0
        error = (got[name].astype(np.float64) - exact) / scale
        found[name] = float(np.mean(error * error))
    return found


def _errors(row: str, kind: str, plain: _Squares, alike: _Squares, names: Sequence[str]) -> Errors:
    """Each tensor counts alike, whatever its size, and so does each input."""

    def error(squares: _Squares, peer: str, *chosen: str) -> float:
        found = squares[peer]
        return math.sqrt(sum(s[n] for s in found for n in chosen) / (len(chosen) * len(found)))

    def both(squares: _Squares, *chosen: str) -> Errors:
        return Errors(row, kind, error(squares, "graphc", *chosen), error(squares, "torch eager", *chosen))

    ratios = {n: both(alike, n).ratio for n in names}
    worst = max(ratios, key=lambda n: ratios[n])
    return replace(
        both(plain, *names), rounding=both(alike, *names).ratio, worst=f"{worst} {ratios[worst]:.2f}×"
    )


def main() -> None:
    """Prints the errors of the chosen rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW")
    failed = False
    print(f"{'row':16} {'of':10} {'graphc':>10} {'torch':>10} {'ratio':>7} {'rounding':>8}  worst tensor")
    for workload in chosen(ROWS, parser.parse_args().rows):
        try:
            found = compare(workload.name)
        except Exception as error:
            print(f"{workload.name:16} not there: {type(error).__name__}: {error}"[:110])
            continue
        for e in found:
            failed |= max(e.ratio, e.rounding) > BOUND
            print(
                f"{e.row:16} {e.kind:10} {e.graphc:10.2e} {e.torch:10.2e} {e.ratio:6.2f}× {e.rounding:7.2f}×  {e.worst}",
                flush=True,
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
