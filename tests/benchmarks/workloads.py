"""The benchmark's rows: what each one builds, what it must compute and move, on how many threads.

A row's code is the same on graphc and on PyTorch; `floor`s are lower bounds that hold for any
program that does the row's work.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.benchmarks import models
from tests.benchmarks.floor import Floor, gpt_floor, lenet_floor, lstm_floor, matrices_floor, resnet18_floor
from tests.benchmarks.models import Framework

__all__ = ["LOSSES", "MODELS", "ROWS", "ROW_DATA", "RowData", "Work", "Workload", "chosen"]


@dataclass
class Work:
    """One row built on one framework.

    `run` does the work once and returns its result (a loss, or the outputs). `model` is the Module that is
    trained or run, `inputs` what it is called with; `loss` maps the model's result to what is differentiated.
    """

    run: Callable[[], Any]
    model: Any = None
    inputs: tuple[Any, ...] = ()
    loss: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Workload:
    """A row. `kind` is "train", "infer" or "micro"; `floor` the least arithmetic and traffic."""

    name: str
    title: str
    kind: str
    build: Callable[[Framework], Work]
    floor: Floor
    threads: int = 2


def _mean_square(f: Framework) -> Callable[[Any, Any], Any]:
    return f.nn.MSELoss()  # type: ignore[no-any-return]


def _cross_entropy(f: Framework) -> Callable[[Any, Any], Any]:
    return f.nn.CrossEntropyLoss()  # type: ignore[no-any-return]


def _token_cross_entropy(f: Framework) -> Callable[[Any, Any], Any]:
    return lambda logits, y: f.functional.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


LOSSES: dict[str, Callable[[Framework], Callable[[Any, Any], Any]]] = {
    "mean square": _mean_square, "cross entropy": _cross_entropy, "token cross entropy": _token_cross_entropy
}  # fmt: skip

_OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "SGD": ("SGD", {"lr": 0.001}), "momentum": ("SGD", {"lr": 0.001, "momentum": 0.9}), "Adam": ("Adam", {"lr": 0.001})
}  # fmt: skip

MODELS: dict[str, Callable[[Framework], Any]] = {
    "linear": lambda f: f.nn.Linear(2, 1), "mlp": models.mlp, "lenet": models.lenet, "lstm": models.lstm,
    "resnet18": models.resnet18, "gpt": lambda f: models.gpt(f, models.GPT_SMALL),
    "gpt2": lambda f: models.gpt(f, models.GPT2),
}  # fmt: skip


"""Builders of the models by name."""


@dataclass(frozen=True)
class RowData:
    """What a row computes, by name, for the PyTorch-style builder and the JAX one alike. `y` is None for
    inference."""

    model: str
    x: Callable[[np.random.Generator], np.ndarray]
    y: Callable[[np.random.Generator], np.ndarray] | None = None
    optimizer: str = ""
    loss: str = "cross entropy"

    def build(self, f: Framework) -> Work:
        """The row on a PyTorch-style framework."""
        return self._inference(f) if self.y is None else self._training(f)

    def _training(self, f: Framework) -> Work:
        """A training step; the loss is returned and not read."""
        assert self.y is not None
        f.torch.set_grad_enabled(True)
        rng = np.random.default_rng(0)
        model = models.initialise(f, MODELS[self.model](f))
        inputs, targets = f.tensor(self.x(rng)), f.tensor(self.y(rng))
        criterion = LOSSES[self.loss](f)
        name, options = _OPTIMIZERS[self.optimizer]
        optimizer = getattr(f.optim, name)(model.parameters(), **options)

        @f.compile
        def step(a: Any, b: Any) -> Any:
            optimizer.zero_grad()
            value = criterion(model(a), b)
            value.backward()
            optimizer.step()
            return value

        return Work(lambda: step(inputs, targets), model, (inputs,), lambda out: criterion(out, targets))

    def _inference(self, f: Framework) -> Work:
        """A forward pass in evaluation mode; gradients are off for the rest of the process."""
        model = models.initialise(f, MODELS[self.model](f)).eval()
        inputs = f.tensor(self.x(np.random.default_rng(0)))
        f.torch.set_grad_enabled(False)
        forward = f.compile(model)
        return Work(lambda: forward(inputs), model, (inputs,))


def _normal(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.standard_normal(shape).astype(np.float32)


def _integers(high: int, *shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(0, high, shape)


ROW_DATA: dict[str, RowData] = {
    "linear": RowData("linear", _normal(3, 2), _normal(3, 1), "SGD", "mean square"),
    "mlp-sgd": RowData("mlp", _normal(64, 784), _integers(10, 64), "SGD"),
    "mlp-adam": RowData("mlp", _normal(64, 784), _integers(10, 64), "Adam"),
    "lenet": RowData("lenet", _normal(64, 3, 32, 32), _integers(10, 64), "momentum"),
    "lstm": RowData("lstm", _normal(10, 28, 100), _integers(10, 10), "Adam"),
    "resnet18": RowData("resnet18", _normal(8, 3, 64, 64), _integers(1000, 8), "momentum"),
    "gpt": RowData("gpt", _integers(65, 4, 128), _integers(65, 4, 128), "Adam", "token cross entropy"),
    "mlp-infer": RowData("mlp", _normal(1, 784)),
    "lenet-infer": RowData("lenet", _normal(1, 3, 32, 32)),
    "lstm-infer": RowData("lstm", _normal(1, 28, 100)),
    "resnet18-infer": RowData("resnet18", _normal(1, 3, 224, 224)),
    "gpt2-infer": RowData("gpt2", _integers(50257, 1, 64)),
}
"""What each of the twelve rows computes."""

_MLP = [(128, 784, 64), (10, 128, 64)]


def _row(name: str, title: str, floor: Floor, threads: int = 2) -> Workload:
    data = ROW_DATA[name]
    return Workload(name, title, "infer" if data.y is None else "train", data.build, floor, threads)


ROWS: tuple[Workload, ...] = (
    _row(
        "linear",
        "linear regression step, batch 3, SGD",
        matrices_floor([(1, 2, 3)], training="SGD"),
        threads=1,
    ),
    _row("mlp-sgd", "MLP 784-128-10 step, batch 64, SGD", matrices_floor(_MLP, training="SGD")),
    _row("mlp-adam", "MLP 784-128-10 step, batch 64, Adam", matrices_floor(_MLP, training="Adam")),
    _row("lenet", "LeNet (3×32×32) step, batch 64, SGD momentum", lenet_floor(64, training="momentum")),
    _row("lstm", "LSTM 100-50×2 step, batch 10, 28 steps, Adam", lstm_floor(10, 28, training="Adam")),
    _row(
        "resnet18", "ResNet-18 step, batch 8, 64×64, SGD momentum", resnet18_floor(8, 64, training="momentum")
    ),
    _row(
        "gpt",
        "GPT 6 layers × 384 step, batch 4 × 128, Adam",
        gpt_floor(models.GPT_SMALL, 4, 128, training="Adam"),
    ),
    _row("mlp-infer", "MLP inference, batch 1", matrices_floor([(128, 784, 1), (10, 128, 1)])),
    _row("lenet-infer", "LeNet inference, batch 1", lenet_floor(1)),
    _row("lstm-infer", "LSTM inference, batch 1, 28 steps", lstm_floor(1, 28)),
    _row("resnet18-infer", "ResNet-18 inference, batch 1, 224×224", resnet18_floor(1, 224)),
    _row("gpt2-infer", "GPT-2 124M forward, batch 1 × 64 tokens", gpt_floor(models.GPT2, 1, 64)),
)
"""The twelve rows that the comparison with peers is about."""


def chosen(rows: Sequence[Workload], patterns: Sequence[str]) -> list[Workload]:
    """The rows whose name or title matches one of the patterns (`*`, `?`), in their own order.

    Raises ValueError for a pattern that matches nothing.
    """
    found = []
    for pattern in patterns:
        matching = [w for w in rows if any(fnmatch.fnmatchcase(n, pattern) for n in (w.name, w.title))]
        if not matching:
            raise ValueError(f"no row matches {pattern!r}; rows are {', '.join(w.name for w in rows)}")
        found += matching
    return [w for w in rows if w in found]
