"""The benchmark's rows: what each one builds, what it must compute and move, on how many threads.

A row's code is the same on graphc and on PyTorch; `floor` figures are lower bounds that hold for any
program that does the row's work.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.benchmarks import models
from tests.benchmarks.floor import Floor, gpt_floor, lenet_floor, lstm_floor, matrices_floor, resnet18_floor
from tests.benchmarks.models import Framework

__all__ = ["ROWS", "Work", "Workload", "chosen"]


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
    tags: tuple[str, ...] = field(default=())


_Loss = Callable[[Framework], Callable[[Any, Any], Any]]


def _mean_square(f: Framework) -> Callable[[Any, Any], Any]:
    return f.nn.MSELoss()  # type: ignore[no-any-return]


def _cross_entropy(f: Framework) -> Callable[[Any, Any], Any]:
    return f.nn.CrossEntropyLoss()  # type: ignore[no-any-return]


def _token_cross_entropy(f: Framework) -> Callable[[Any, Any], Any]:
    return lambda logits, y: f.functional.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


def _training(
    model: Callable[[Framework], Any],
    x: Callable[[np.random.Generator], np.ndarray],
    y: Callable[[np.random.Generator], np.ndarray],
    optimizer: tuple[str, dict[str, float]],
    loss: _Loss = _cross_entropy,
) -> Callable[[Framework], Work]:
    """Builder of a training step; the loss is returned and not read."""

    def build(f: Framework) -> Work:
        rng = np.random.default_rng(0)
        made = models.initialise(f, model(f))
        inputs, targets = f.tensor(x(rng)), f.tensor(y(rng))
        criterion = loss(f)
        updates = getattr(f.optim, optimizer[0])(made.parameters(), **optimizer[1])

        @f.compile
        def step(a: Any, b: Any) -> Any:
            updates.zero_grad()
            value = criterion(made(a), b)
            value.backward()
            updates.step()
            return value

        return Work(lambda: step(inputs, targets), made, (inputs,), lambda out: criterion(out, targets))

    return build


def _inference(
    model: Callable[[Framework], Any], x: Callable[[np.random.Generator], np.ndarray]
) -> Callable[[Framework], Work]:
    """Builder of a forward pass in evaluation mode; gradients are off for the rest of the process."""

    def build(f: Framework) -> Work:
        made = models.initialise(f, model(f)).eval()
        inputs = f.tensor(x(np.random.default_rng(0)))
        f.torch.set_grad_enabled(False)
        forward = f.compile(made)
        return Work(lambda: forward(inputs), made, (inputs,))

    return build


def _normal(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.standard_normal(shape).astype(np.float32)


def _integers(high: int, *shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(0, high, shape)


_SGD = ("SGD", {"lr": 0.001})
_MOMENTUM = ("SGD", {"lr": 0.001, "momentum": 0.9})
_ADAM = ("Adam", {"lr": 0.001})

_MLP = [(128, 784, 64), (10, 128, 64)]


def _small_gpt(f: Framework) -> Any:
    return models.gpt(f, models.GPT_SMALL)


def _gpt2(f: Framework) -> Any:
    return models.gpt(f, models.GPT2)


def _linear(f: Framework) -> Any:
    return f.nn.Linear(2, 1)


ROWS: tuple[Workload, ...] = (
    Workload(
        "linear", "linear regression step, batch 3, SGD", "train",
        _training(_linear, _normal(3, 2), _normal(3, 1), _SGD, _mean_square),
        matrices_floor([(1, 2, 3)], training="SGD"), threads=1,
    ),
    Workload(
        "mlp-sgd", "MLP 784-128-10 step, batch 64, SGD", "train",
        _training(models.mlp, _normal(64, 784), _integers(10, 64), _SGD), matrices_floor(_MLP, training="SGD"),
    ),
    Workload(
        "mlp-adam", "MLP 784-128-10 step, batch 64, Adam", "train",
        _training(models.mlp, _normal(64, 784), _integers(10, 64), _ADAM), matrices_floor(_MLP, training="Adam"),
    ),
    Workload(
        "lenet", "LeNet (3×32×32) step, batch 64, SGD momentum", "train",
        _training(models.lenet, _normal(64, 3, 32, 32), _integers(10, 64), _MOMENTUM),
        lenet_floor(64, training="momentum"),
    ),
    Workload(
        "lstm", "LSTM 100-50×2 step, batch 10, 28 steps, Adam", "train",
        _training(models.lstm, _normal(10, 28, 100), _integers(10, 10), _ADAM),
        lstm_floor(10, 28, training="Adam"),
    ),
    Workload(
        "resnet18", "ResNet-18 step, batch 8, 64×64, SGD momentum", "train",
        _training(models.resnet18, _normal(8, 3, 64, 64), _integers(1000, 8), _MOMENTUM),
        resnet18_floor(8, 64, training="momentum"),
    ),
    Workload(
        "gpt", "GPT 6 layers × 384 step, batch 4 × 128, Adam", "train",
        _training(_small_gpt, _integers(65, 4, 128), _integers(65, 4, 128), _ADAM, _token_cross_entropy),
        gpt_floor(models.GPT_SMALL, 4, 128, training="Adam"),
    ),
    Workload(
        "mlp-infer", "MLP inference, batch 1", "infer", _inference(models.mlp, _normal(1, 784)),
        matrices_floor([(128, 784, 1), (10, 128, 1)]),
    ),
    Workload(
        "lenet-infer", "LeNet inference, batch 1", "infer", _inference(models.lenet, _normal(1, 3, 32, 32)),
        lenet_floor(1),
    ),
    Workload(
        "lstm-infer", "LSTM inference, batch 1, 28 steps", "infer", _inference(models.lstm, _normal(1, 28, 100)),
        lstm_floor(1, 28),
    ),
    Workload(
        "resnet18-infer", "ResNet-18 inference, batch 1, 224×224", "infer",
        _inference(models.resnet18, _normal(1, 3, 224, 224)), resnet18_floor(1, 224),
    ),
    Workload(
        "gpt2-infer", "GPT-2 124M forward, batch 1 × 64 tokens", "infer",
        _inference(_gpt2, _integers(50257, 1, 64)), gpt_floor(models.GPT2, 1, 64),
    ),
)  # fmt: skip
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
