"""Results do not depend on the number of threads nor on how kernels are divided, to the last bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.compiler.driver import CompiledGraph, lower_graph, make_context
from graphc.core.storage import Memory, allocate_memory, memory_of
from graphc.ir.graph import Graph
from graphc.ir.program import Program
from graphc.nn import functional as F
from graphc.passes.context import Options
from tests.e2e.models import batches, tensors, training

THREADS = (1, 2, 4)
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = graphc.get_num_threads()
    yield
    graphc.set_num_threads(before)


def parts(program: Program) -> list[list[int]]:
    """Partitions of every kernel call, by phase."""
    return [[call.parts for call in phase.calls] for phase in program.phases]


def array(*shape: int, dtype: Any = np.float32) -> Any:
    return RNG.standard_normal(shape).astype(dtype)


def contents(result: Any) -> list[bytes]:
    results = result if isinstance(result, (tuple, list)) else (result,)
    return [r.detach().numpy().tobytes() for r in results]


# -- functions that are large enough to be divided ----------------------------------------------------

LARGE: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "elementwise": (lambda a, b: (a * b).exp() + a.tanh(), (array(1031, 1021), array(1021))),
    "sum of all": (lambda a: a.sum(), (array(3_000_017),)),
    "mean and variance of rows": (lambda a: (a.mean(1), a.var(1)), (array(1501, 1203),)),
    "sum of columns": (lambda a: a.sum(0), (array(2003, 1009),)),
    "maximum and its place": (lambda a: (a.amax(0), a.argmax(1)), (array(1009, 1501),)),
    "product in float64": (lambda a: a.prod(1), (1 + array(1201, 1203, dtype=np.float64) / 1000,)),
    "causal attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (array(3, 517, 64), array(3, 517, 64), array(3, 517, 48)),
    ),
    "softmax of rows": (lambda a: a.softmax(1), (array(2049, 1003),)),
    "log-softmax of columns": (lambda a: a.log_softmax(0), (array(1003, 1025),)),
    "layer norm": (lambda a: F.layer_norm(a, (1003,)), (array(2049, 1003),)),
    "matrix product": (lambda a, b: a @ b, (array(515, 509), array(509, 523))),
    "batched matrix product": (lambda a, b: a @ b, (array(9, 131, 127), array(9, 127, 133))),
    "few large products": (lambda a, b: a @ b, (array(3, 515, 127), array(3, 127, 133))),
    "matrix times vector": (lambda a, b: a @ b, (array(4001, 1003), array(1003))),
    "convolution": (
        lambda a, w: F.conv2d(a, w, padding=1).relu(),
        (array(16, 9, 33, 31), array(17, 9, 3, 3)),
    ),
    "convolution through transformed tiles": (
        lambda a, w: F.conv2d(a, w, padding=1).relu(),
        (array(3, 65, 33, 31), array(70, 65, 3, 3)),
    ),
    "pooling": (lambda a: F.max_pool2d(a, 2), (array(32, 32, 64, 66),)),
    "float16": (lambda a: (a * a).sum(1), (array(2003, 1009, dtype=np.float16),)),
    "integers": (lambda a: (a * 7 // 3).sum(0), (RNG.integers(-99, 99, (2003, 1009)),)),
    "rows of a table": (lambda t, i: t[i] * 2, (array(5000, 257), RNG.integers(0, 5000, 9001))),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_functions(name: str) -> None:
    function, arguments = LARGE[name]
    compiled = graphc.compile(function)
    divided = parts(compiled.stages(*arguments)["plan"])
    print(f"partitions of {name}: {divided}")
    assert max(map(max, divided)) > 1
    found = []
    for n in THREADS:
        graphc.set_num_threads(n)
        found.append([contents(compiled(*arguments)) for _ in range(2)])
    assert all(f == found[0] for f in found)


def test_workers_take_part() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("counts threads in /proc")
    compiled = graphc.compile(LARGE["elementwise"][0])
    graphc.set_num_threads(1)
    compiled(*LARGE["elementwise"][1])
    alone = len(os.listdir(tasks))
    graphc.set_num_threads(4)
    compiled(*LARGE["elementwise"][1])
    assert len(os.listdir(tasks)) == alone + 3


def test_random_numbers() -> None:
    def noise(a: Any) -> Any:
        return F.dropout(a + graphc.randn(1500, 1001), 0.3)

    compiled = graphc.compile(noise)
    a = array(1500, 1001)
    print(f"partitions of noise: {parts(compiled.stages(a)['plan'])}")
    found = []
    for n in THREADS:
        graphc.set_num_threads(n)
        graphc.manual_seed(11)
        found.append([contents(compiled(a)), contents(compiled(a))])
    assert all(f == found[0] for f in found)
    assert found[0][0] != found[0][1]


# -- training steps -----------------------------------------------------------------------------------


class WideMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 300), nn.GELU(), nn.LayerNorm(300), nn.Linear(300, 10))

    def forward(self, x: Any) -> Any:
        return self.layers(x.reshape(len(x), -1))


class WideCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(24 * 7 * 7, 10),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class Embedded(nn.Module):
    """Gradients of an embedding are scattered."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(97, 256)
        self.output = nn.Linear(256, 10)

    def forward(self, x: Any) -> Any:
        return self.output(
            self.table(x.reshape(len(x), -1)[:, :40].abs().mul(30).clamp(0, 96).long()).mean(1)
        )


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam])
@pytest.mark.parametrize("model", [WideMLP, WideCNN, Embedded])
def test_training_steps(model: type[nn.Module], optimizer: Any) -> None:
    x, y = graphc.from_numpy(array(128, 1, 28, 28)), graphc.from_numpy(RNG.integers(0, 10, 128))
    found = []
    for n in THREADS:
        graphc.set_num_threads(n)
        graphc.manual_seed(7)
        net = model()
        opt = optimizer(net.parameters(), lr=0.01)

        def step(x: Any, y: Any, net: Any = net, opt: Any = opt) -> Any:
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            return loss

        compiled = graphc.compile(step)
        if n == 1:
            divided = parts(compiled.stages(x, y)["plan"])
            print(f"partitions of {model.__name__} with {optimizer.__name__}: {divided}")
            assert max(map(max, divided)) > 1
        losses = [compiled(x, y).item() for _ in range(3)]
        found.append((losses, [t.detach().numpy().tobytes() for t in net.state_dict().values()]))
    assert all(f == found[0] for f in found)
    assert np.isfinite(losses).all() and len(set(losses)) == 3


# -- small shapes, divided by force -------------------------------------------------------------------


def memories(graph: Graph, arrays: list[Any]) -> list[Memory]:
    return [memory_of(a.copy(), share=False) for a, _ in zip(arrays, graph.inputs, strict=True)]


def run_divided(graph: Graph, arrays: list[Any], options: Options) -> tuple[Program, list[list[bytes]]]:
    """The plan under these options, and all outputs for each number of threads."""
    compiled = CompiledGraph(graph, lower_graph(graph.copy(), replace(make_context(), options=options)))
    found = []
    for n in THREADS:
        graphc.set_num_threads(n)
        inputs = memories(graph, arrays)
        fresh = [allocate_memory(v.type) for i, v in enumerate(graph.outputs) if i not in graph.aliases]
        compiled.run(inputs, fresh)
        states = [inputs[j] for j in graph.aliases.values()]
        found.append([m.array.tobytes() for m in (*fresh, *states)])
    return compiled.program, found


@pytest.mark.parametrize(
    ("model", "optimizer"), [("mlp", "sgd"), ("mlp", "adam"), ("cnn", "sgd"), ("cnn", "adam")]
)
def test_digits_steps_divided_by_force(model: str, optimizer: str) -> None:
    run, batch = training(model, optimizer), batches(1)[0]
    traced = run.step.traced(*tensors(batch))
    arrays = [*batch, *(s.memory.array for s in traced.states)]
    whole, expected = run_divided(traced.graph, arrays, Options())
    divided, found = run_divided(traced.graph, arrays, Options(grain=64))
    counts = parts(divided)
    print(f"partitions of the {model} step with {optimizer}: {counts}, by default {parts(whole)}")
    assert sum(map(sum, counts)) > 2 * sum(map(len, counts))
    assert max(map(max, counts)) > max(map(max, parts(whole)))
    assert all(f == expected[0] for f in (*expected, *found))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 16, 17, 31])
def test_uneven_divisions(rows: int) -> None:
    def f(a: Any, b: Any) -> Any:
        return (a * 2 + b).exp(), (a + b).softmax(1), (a - b).sum(0), a @ b.t()

    arrays = [array(rows, 37), array(rows, 37)]
    graph = graphc.compile(f).trace(*arrays)
    _, expected = run_divided(graph, arrays, Options())
    for grain in (1, 16, 200):
        program, found = run_divided(graph, arrays, Options(grain=grain))
        print(f"partitions of {rows} rows, grain {grain}: {parts(program)}")
        assert rows == 1 or max(map(max, parts(program))) > 1
        assert all(f == expected[0] for f in (*expected, *found))


@pytest.mark.parametrize(
    "shape", [(64, 96, 40), (37, 50, 300), (6, 16, 48), (12, 24, 33), (70, 1, 40)], ids=str
)
def test_chains_after_a_product_are_those_of_a_kernel_of_their_own(shape: tuple[int, int, int]) -> None:
    m, n, k = shape

    def f(a: Any, w: Any, b: Any, c: Any) -> Any:
        x = F.linear(a, w, b)
        y = F.linear(a, w, b + 1)
        return F.gelu(x, approximate="tanh"), y.tanh() * c.exp(), F.gelu(x * c)

    arrays = [array(m, k), array(n, k), array(n), array(m, n)]
    graph = graphc.compile(f).trace(*arrays)
    _, expected = run_divided(graph, arrays, Options(fuse=False))
    _, found = run_divided(graph, arrays, Options())
    assert all(f == expected[0] for f in (*expected, *found))
