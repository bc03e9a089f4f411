"""The benchmark's models, written once in PyTorch style for any package with PyTorch's spellings.

Each function gets a `Framework` and returns an ordinary Module. `initialise` gives the parameters the
same values on every framework: they depend on parameter names and shapes alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "GPT2",
    "GPT_SMALL",
    "Framework",
    "GPTSize",
    "gpt",
    "initialise",
    "lenet",
    "lstm",
    "mlp",
    "resnet18",
]


@dataclass(frozen=True)
class Framework:
    """The namespaces of a PyTorch-like package, and its compiler (the identity for eager)."""

    torch: Any
    nn: Any
    optim: Any
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    eager: bool = False

    @property
    def functional(self) -> Any:
        """The package's `nn.functional`."""
        return self.nn.functional

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor of the array's own copy; floats take the package's default dtype."""
        made = self.torch.tensor(array)
        return made.to(self.torch.get_default_dtype()) if array.dtype.kind == "f" else made


@dataclass(frozen=True)
class GPTSize:
    """Sizes of a decoder-only transformer; the output layer shares the embedding's weights where `tied`."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    tied: bool


GPT_SMALL = GPTSize(layers=6, width=384, heads=6, vocabulary=65, context=128, tied=False)
"""Character-level GPT: 10.7 million parameters, a vocabulary of 65 characters."""
GPT2 = GPTSize(layers=12, width=768, heads=12, vocabulary=50257, context=1024, tied=True)
"""GPT-2 with 124 million parameters."""


def parameter_values(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 values of parameters by name: matrices and filters normal with deviation 1/√fan-in, embeddings
    0.02, vectors called bias small, all other vectors (scales) near one."""
    made = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(shape)
        if len(shape) > 1:
            values *= 0.02 if "embedding" in name else 1.0 / math.sqrt(math.prod(shape[1:]))
        elif "bias" in name:
            values *= 0.02
        else:
            values = 1.0 + 0.02 * values
        made[name] = values.astype(np.float32)
    return made


def initialise(f: Framework, model: Any) -> Any:
    """Gives the model's parameters their values (`parameter_values`); returns the model."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    made = {name: f.tensor(v) for name, v in parameter_values(shapes).items()}
    model.load_state_dict(made, strict=False)
    return model


def mlp(f: Framework) -> Any:
    """784-128-10 with ReLU."""
    nn = f.nn
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def lenet(f: Framework) -> Any:
    """LeNet on 3×32×32 images: two 5×5 convolutions with pooling, three linear layers."""
    nn = f.nn
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def lstm(f: Framework) -> Any:
    """Two LSTM layers of 50 on sequences of 100 features, then 10 classes from the last step."""
    nn = f.nn

    class Recurrent(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(100, 50, num_layers=2, batch_first=True)
            self.head = nn.Linear(50, 10)

        def forward(self, x: Any) -> Any:
            steps, _ = self.lstm(x)
            return self.head(steps[:, -1])

    return Recurrent()


def resnet18(f: Framework) -> Any:
    """ResNet-18 with 1,000 classes, batch normalisation included."""
    nn = f.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU()
            self.down = None
            if stride != 1 or inputs != outputs:
                self.down = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + (x if self.down is None else self.down(x)))

    blocks = []
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip


def gpt(f: Framework, size: GPTSize) -> Any:
    """Decoder-only transformer, pre-norm, GELU (tanh form), learned positions; logits of all tokens."""
    nn, torch, functional = f.nn, f.torch, f.functional
    width, heads = size.width, size.heads

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            q, k, v = (
                part.view(b, t, heads, width // heads).transpose(1, 2)
                for part in self.qkv(self.norm1(x)).split(width, dim=2)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Transformer(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token_embedding = nn.Embedding(size.vocabulary, width)
            self.position_embedding = nn.Embedding(size.context, width)
            self.blocks = nn.ModuleList([Block() for _ in range(size.layers)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, size.vocabulary, bias=False)
            if size.tied:
                self.head.weight = self.token_embedding.weight

        def forward(self, tokens: Any) -> Any:
            x = self.token_embedding(tokens) + self.position_embedding(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Transformer()
