"""Models and training steps that the end-to-end tests share, with data like the digits'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc
from graphc import nn, optim
from graphc.nn import functional as F

BATCH = 32
SEED = 3


class MLP(nn.Module):
    """64 -> 128 -> 10, the digits MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        return self.output(self.hidden(x).relu())


class CNN(nn.Module):
    """A convolution with batch normalisation, pooling and a linear layer, on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 10),
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x.reshape(-1, 1, 8, 8))


MODELS = {"mlp": MLP, "cnn": CNN}


@dataclass
class Training:
    """A model, its optimiser and its compiled step `(x, y) -> loss`."""

    model: Any
    optimizer: Any
    step: Any


def make_optimizer(kind: str, parameters: Any) -> Any:
    """`sgd` (momentum, Nesterov off, weight decay) or `adam`; the learning rates are exact in float32."""
    if kind == "sgd":
        return optim.SGD(parameters, lr=0.0625, momentum=0.9, weight_decay=1e-3)
    return optim.Adam(parameters, lr=2.0**-9)


def training(model: str = "mlp", optimizer: str = "adam", **options: Any) -> Training:
    """A freshly seeded model with a compiled cross-entropy step; `options` are those of `graphc.compile`."""
    graphc.manual_seed(SEED)
    net = MODELS[model]()
    opt = make_optimizer(optimizer, net.parameters())

    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    return Training(net, opt, graphc.compile(step, **options))


def batches(count: int, size: int = BATCH) -> list[tuple[Any, Any]]:
    """`count` mini-batches of images (float32 in [0, 1], [size, 64]) and labels (int64, [size])."""
    rng = np.random.default_rng(SEED)
    made = []
    for _ in range(count):
        y = rng.integers(0, 10, size)
        x = rng.random((size, 64)).astype(np.float32) * 0.5
        x[np.arange(size), y * 6] += 0.5
        made.append((x, y))
    return made


def tensors(batch: tuple[Any, Any]) -> tuple[Any, Any]:
    """A batch as tensors."""
    return graphc.tensor(batch[0]), graphc.tensor(batch[1])


def state_bits(model: Any) -> dict[str, bytes]:
    """The bytes of every parameter and buffer."""
    return {name: t.detach().numpy().tobytes() for name, t in model.state_dict().items()}
