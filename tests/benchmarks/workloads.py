"""The benchmark's workloads, written once: the same code builds them on graphc and on PyTorch.

A builder gets a `Framework` and returns a function that does the work once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WORKLOADS", "Framework", "Workload"]


@dataclass(frozen=True)
class Framework:
    """The namespaces of a PyTorch-like package and its compiler (the identity for eager)."""

    torch: Any
    nn: Any
    optim: Any
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor of the array's own copy."""
        return self.torch.tensor(array)


@dataclass(frozen=True)
class Workload:
    """`build(framework)` gives the work; `flops` is what one run must do at least."""

    name: str
    build: Callable[[Framework], Callable[[], Any]]
    threads: int
    flops: float
    peers: tuple[str, ...] = ("graphc", "torch eager")


def _training_step(
    f: Framework, model: Any, loss: Any, optimizer: Any, x: np.ndarray, y: np.ndarray
) -> Callable[[], Any]:
    @f.compile
    def step(inputs: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        return value

    a, b = f.tensor(x), f.tensor(y)
    return lambda: step(a, b)


def linear_regression(f: Framework) -> Callable[[], Any]:
    """`Linear(2, 1)`, batch 3, MSE, SGD; the loss is returned and not read."""
    rng = np.random.default_rng(0)
    model = f.nn.Linear(2, 1)
    x = rng.standard_normal((3, 2)).astype(np.float32)
    y = rng.standard_normal((3, 1)).astype(np.float32)
    return _training_step(f, model, f.nn.MSELoss(), f.optim.SGD(model.parameters(), lr=0.01), x, y)


def _mlp(f: Framework, optimizer: str) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    model = f.nn.Sequential(f.nn.Linear(784, 128), f.nn.ReLU(), f.nn.Linear(128, 10))
    x = rng.standard_normal((64, 784)).astype(np.float32)
    y = rng.integers(0, 10, 64)
    made = getattr(f.optim, optimizer)(model.parameters(), lr=0.001)
    return _training_step(f, model, f.nn.CrossEntropyLoss(), made, x, y)


def mlp_sgd(f: Framework) -> Callable[[], Any]:
    """MLP 784-128-10, batch 64, SGD."""
    return _mlp(f, "SGD")


def mlp_adam(f: Framework) -> Callable[[], Any]:
    """MLP 784-128-10, batch 64, Adam."""
    return _mlp(f, "Adam")


def lenet(f: Framework) -> Callable[[], Any]:
    """LeNet on 3×32×32 images, batch 64, SGD with momentum."""
    nn, rng = f.nn, np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    x = rng.standard_normal((64, 3, 32, 32)).astype(np.float32)
    y = rng.integers(0, 10, 64)
    return _training_step(
        f, model, nn.CrossEntropyLoss(), f.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), x, y
    )


def matmul_512(f: Framework) -> Callable[[], Any]:
    """512³ float32 matrix product of unpacked operands, the call included."""
    rng = np.random.default_rng(0)
    a = f.tensor(rng.standard_normal((512, 512)).astype(np.float32))
    b = f.tensor(rng.standard_normal((512, 512)).astype(np.float32))
    product = f.compile(lambda x, y: f.torch.matmul(x, y))
    return lambda: product(a, b)


_MLP_FLOPS = 2.0 * 64 * (784 * 128 * 2 + 128 * 10 * 3)

WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Workload("linear regression step", linear_regression, 1, 2.0 * 3 * 2 * 2),
        Workload("MLP step, SGD", mlp_sgd, 2, _MLP_FLOPS),
        Workload("MLP step, Adam", mlp_adam, 2, _MLP_FLOPS),
        Workload(
            "LeNet step, SGD momentum",
            lenet,
            2,
            2.0 * 64 * 3 * (28 * 28 * 6 * 75 + 100 * 16 * 150 + 48000 + 10080 + 840),
        ),
        Workload("matmul 512", matmul_512, 1, 2.0 * 512**3),
    )
}
