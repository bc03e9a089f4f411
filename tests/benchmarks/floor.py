"""What a row must at least compute and move, from its shapes alone.

FLOPs are those of matrix products and convolutions (a multiplication and an addition are two); bytes
are arguments, parameters, gradients' updates and results, each moved once. No program can do with less,
so time at the measured peak is a bound for every framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.models import GPTSize

__all__ = [
    "Floor",
    "convolution_flops",
    "gpt_floor",
    "lenet_floor",
    "lstm_floor",
    "matrices_floor",
    "resnet18_floor",
]

_F32 = 4
_STATE_MOVES = {"": 1, "SGD": 2, "momentum": 4, "Adam": 6}
"""How often a parameter's size is moved in a run: read; and written; and one or two moments read and written."""


@dataclass(frozen=True)
class Floor:
    """Floating-point operations; bytes moved, and how many of them are written (0: not told apart)."""

    flops: float
    bytes: float
    written: float = 0.0

    def mix(self) -> tuple[int, int]:
        """The nearest mix of equal input and output streams, as (reads, writes)."""
        read = self.bytes - self.written
        if self.written <= read / 8:
            return 1, 0
        return (0, 1) if read < self.written / 8 else (max(1, min(3, round(read / self.written))), 1)


def _step(forward: float, first_layer: float, parameters: float, data: float, training: str) -> Floor:
    """A training step computes a layer's two gradients at the cost of its forward pass each, but no gradient of
    the data; `data` is in elements of four bytes."""
    flops = 3 * forward - first_layer if training else forward
    return Floor(flops, _F32 * (parameters * _STATE_MOVES[training] + data))


def matrices_floor(layers: Sequence[tuple[int, int, int]], training: str = "") -> Floor:
    """Linear layers with bias as (outputs, inputs, rows)."""
    each = [2.0 * o * i * r for o, i, r in layers]
    rows = layers[0][2]
    data = rows * (layers[0][1] + (1 if training else layers[-1][0]))
    return _step(sum(each), each[0], sum(o * i + o for o, i, _ in layers), data, training)


def convolution_flops(batch: int, side: int, outputs: int, inputs: int, kernel: int) -> float:
    """A convolution with `side`² output pixels."""
    return 2.0 * batch * side * side * outputs * inputs * kernel * kernel


def lenet_floor(batch: int, training: str = "") -> Floor:
    """LeNet on 3×32×32 images."""
    first = convolution_flops(batch, 28, 6, 3, 5)
    dense = 400 * 120 + 120 * 84 + 84 * 10
    forward = first + convolution_flops(batch, 10, 16, 6, 5) + 2.0 * batch * dense
    parameters = 456 + 2416 + dense + 120 + 84 + 10
    return _step(forward, first, parameters, batch * (3 * 32 * 32 + 10), training)


def lstm_floor(batch: int, steps: int, training: str = "") -> Floor:
    """Two LSTM layers of 50 on 100 features, 10 classes from the last step."""
    first = 2.0 * batch * steps * 200 * 100
    forward = first + 2.0 * batch * steps * 200 * (50 + 50 + 50) + 2.0 * batch * 500
    parameters = 200 * (100 + 50 + 2) + 200 * (50 + 50 + 2) + 510
    return _step(forward, first, parameters, batch * (steps * 100 + 10), training)


def resnet18_floor(batch: int, side: int, training: str = "") -> Floor:
    """ResNet-18 on square images of `side` pixels (a multiple of 32), 1,000 classes."""
    first = convolution_flops(batch, side // 2, 64, 3, 7)
    forward, parameters = first, 64.0 * 3 * 49 + 2 * 64
    size, inputs = side // 4, 64
    for outputs in (64, 128, 256, 512):
        if outputs != inputs:
            size //= 2
            forward += convolution_flops(batch, size, outputs, inputs, 1)
            parameters += outputs * inputs + 2 * outputs
        forward += convolution_flops(batch, size, outputs, inputs, 3)
        forward += 3 * convolution_flops(batch, size, outputs, outputs, 3)
        parameters += outputs * inputs * 9 + 3 * outputs * outputs * 9 + 8 * outputs
        inputs = outputs
    forward += 2.0 * batch * 512 * 1000
    parameters += 513 * 1000
    return _step(forward, first, parameters, batch * (3 * side * side + 1000), training)


def gpt_floor(size: GPTSize, batch: int, tokens: int, training: str = "") -> Floor:
    """A decoder-only transformer; causal attention needs half of the scores."""
    rows, width = batch * tokens, size.width
    dense = size.layers * 12 * width * width
    attention = size.layers * 2.0 * batch * tokens * (tokens + 1) * width
    forward = 2.0 * rows * (dense + width * size.vocabulary) + attention
    parameters = dense + size.layers * 13 * width + 2 * width + width * size.vocabulary
    embeddings = width * ((0 if size.tied else size.vocabulary) + (size.context if training else tokens))
    results = 0 if training else rows * size.vocabulary
    return _step(forward, 0.0, parameters + embeddings, rows + results, training)
