"""Graphs of small training steps and blocks, for tests of fusion, scheduling and planning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphc.ir import DTYPES, Builder, Graph, TensorType, Value
from graphc.passes import run_pipeline
from graphc.passes.differentiate import differentiate
from graphc.passes.pipeline import OPTIMISE

__all__ = ["MODELS", "adam", "layer_norm", "linear_regression", "mlp", "sgd", "softmax"]

Update = Callable[[Graph, Builder, Sequence[Value], Sequence[Value]], None]


def tensor(dtype: str, *shape: int) -> TensorType:
    """A type by name and sizes."""
    return TensorType(DTYPES[dtype], shape)


def new_state(graph: Graph, state: Value, value: Value) -> None:
    """Makes `value` the new value of a state input."""
    graph.aliases[len(graph.outputs)] = state.index
    graph.outputs.append(value)


def sgd(graph: Graph, b: Builder, parameters: Sequence[Value], gradients: Sequence[Value]) -> None:
    """p - lr·g."""
    rate = graph.add_input(tensor("f32"), "scalar", "lr")
    for p, g in zip(parameters, gradients, strict=True):
        new_state(graph, p, b.sub(p, b.mul(g, rate)))


def adam(graph: Graph, b: Builder, parameters: Sequence[Value], gradients: Sequence[Value]) -> None:
    """Adam with bias correction from a step count that is state."""
    rate = graph.add_input(tensor("f32"), "scalar", "lr")
    step = graph.add_input(tensor("f32"), "optimizer_state", "step")
    count = b.add(step, 1.0)
    new_state(graph, step, count)
    b1, b2 = 0.9, 0.999
    c1, c2 = (b.sub(1.0, b.pow(b.full((), x, DTYPES["f32"]), count)) for x in (b1, b2))
    for p, g in zip(parameters, gradients, strict=True):
        m, v = (graph.add_input(p.type, "optimizer_state", p.name + x) for x in (".m", ".v"))
        m1 = b.add(b.mul(m, b1), b.mul(g, 1 - b1))
        v1 = b.add(b.mul(v, b2), b.mul(b.mul(g, g), 1 - b2))
        scale = b.add(b.div(b.sqrt(v1), b.sqrt(c2)), 1e-8)
        new_state(graph, m, m1)
        new_state(graph, v, v1)
        new_state(graph, p, b.sub(p, b.mul(b.div(rate, c1), b.div(m1, scale))))


def train(graph: Graph, b: Builder, loss: Value, parameters: Sequence[Value], update: Update) -> Graph:
    """The whole step, optimised: returns the loss and updates the parameters."""
    gradients: Any = differentiate(graph, [loss], [b.full((), 1.0, loss.type.dtype)], parameters)
    graph.outputs = [loss]
    update(graph, b, parameters, gradients)
    run_pipeline(graph, OPTIMISE)
    return graph


def mlp(update: Update, batch: int = 64, hidden: int = 128, features: int = 64, classes: int = 10) -> Graph:
    """Linear, relu, linear, cross entropy."""
    graph = Graph("mlp")
    x = graph.add_input(tensor("f32", batch, features), "argument", "x")
    t = graph.add_input(tensor("i64", batch), "argument", "t")
    shapes = {"w1": (hidden, features), "b1": (hidden,), "w2": (classes, hidden), "b2": (classes,)}
    w1, b1, w2, b2 = ps = [graph.add_input(tensor("f32", *s), "parameter", n) for n, s in shapes.items()]
    b = Builder(graph)
    h = b.relu(b.add(b.dot(x, w1, contract=((1,), (1,))), b1))
    scores = b.add(b.dot(h, w2, contract=((1,), (1,))), b2)
    return train(graph, b, b.cross_entropy(scores, t), ps, update)


def linear_regression(update: Update) -> Graph:
    """Linear(2, 1) on three samples, mean squared error."""
    graph = Graph("line")
    x = graph.add_input(tensor("f32", 3, 2), "argument", "x")
    t = graph.add_input(tensor("f32", 3, 1), "argument", "t")
    w = graph.add_input(tensor("f32", 1, 2), "parameter", "w")
    bias = graph.add_input(tensor("f32", 1), "parameter", "b")
    b = Builder(graph)
    y = b.add(b.dot(x, w, contract=((1,), (1,))), bias)
    return train(graph, b, b.mse_loss(y, t), [w, bias], update)


def _block(shape: tuple[int, ...], build: Callable[[Builder, Value], Sequence[Value]]) -> Graph:
    graph = Graph("block")
    x = graph.add_input(tensor("f32", *shape), "argument", "x")
    graph.outputs = list(build(Builder(graph), x))
    run_pipeline(graph, OPTIMISE)
    return graph


def softmax(rows: int = 6, columns: int = 40) -> Graph:
    """Over the last axis."""
    return _block((rows, columns), lambda b, x: [b.softmax(x, axis=1)])


def layer_norm() -> Graph:
    """Over the last two axes, without weights of other shapes."""

    def build(b: Builder, x: Value) -> list[Value]:
        weight = b.graph.add_input(tensor("f32", 3, 8), "parameter", "w")
        bias = b.graph.add_input(tensor("f32", 3, 8), "parameter", "b")
        return [b.layer_norm(x, weight, bias, rank=2)]

    return _block((5, 3, 8), build)


def leading_axis_norm() -> Graph:
    """Statistics over the first axis: lanes run along the kept one."""

    def build(b: Builder, x: Value) -> list[Value]:
        mean = b.keep_dims(b.mean(x, axes=(0,)), x.type.shape, (0,))
        centred = b.sub(x, mean)
        spread = b.keep_dims(b.mean(b.mul(centred, centred), axes=(0,)), x.type.shape, (0,))
        return [b.div(centred, b.sqrt(b.add(spread, 1e-5)))]

    return _block((12, 24), build)


def attention() -> Graph:
    """Scores, softmax, weighted values, heads put back."""

    def build(b: Builder, x: Value) -> list[Value]:
        heads = b.permute(b.reshape(x, shape=(2, 6, 3, 4)), axes=(0, 2, 1, 3))
        scores = b.mul(b.dot(heads, heads, contract=((3,), (3,)), batch=((0, 1), (0, 1))), 0.5)
        values = b.dot(b.softmax(scores, axis=3), heads, contract=((3,), (2,)), batch=((0, 1), (0, 1)))
        return [b.reshape(b.permute(values, axes=(0, 2, 1, 3)), shape=(2, 6, 12))]

    return _block((2, 6, 12), build)


def residual(width: int = 6) -> Graph:
    """Layers as wide as they are long: equal extents must not make different axes one."""
    graph = Graph("residual")
    h = graph.add_input(tensor("f32", width, width), "argument", "x")
    b = Builder(graph)
    parameters = []
    for k in range(3):
        w = graph.add_input(tensor("f32", width, width), "parameter", f"w{k}")
        bias = graph.add_input(tensor("f32", width), "parameter", f"b{k}")
        parameters += [w, bias]
        h = b.add(h, b.relu(b.add(b.dot(h, w, contract=((1,), (1,))), bias)))
    return train(graph, b, b.mean(b.mul(h, h), axes=(0, 1)), parameters, sgd)


def reshaped_chain() -> Graph:
    """Elementwise work across reshapes and a transposition."""

    def build(b: Builder, x: Value) -> list[Value]:
        a = b.exp(b.reshape(x, shape=(4, 6)))
        c = b.mul(b.reshape(a, shape=(2, 2, 6)), 3)
        return [b.tanh(b.permute(c, axes=(2, 0, 1)))]

    return _block((24,), build)


MODELS: dict[str, tuple[Callable[[], Graph], int]] = {
    "mlp_sgd": (lambda: mlp(sgd, 8, 12, 5), 10),
    "mlp_adam": (lambda: mlp(adam, 8, 12, 5), 10),
    "digits_sgd": (lambda: mlp(sgd), 10),
    "digits_adam": (lambda: mlp(adam), 10),
    "linear_regression": (lambda: linear_regression(sgd), 3),
    "softmax": (softmax, 1),
    "long_softmax": (lambda: softmax(3, 20_000), 1),
    "layer_norm": (layer_norm, 1),
    "leading_axis_norm": (leading_axis_norm, 1),
    "attention": (attention, 3),
    "residual": (residual, 12),
    "reshaped_chain": (reshaped_chain, 1),
}
"""Graph and the number of kernels that it becomes."""
