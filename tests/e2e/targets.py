"""Programs for other targets: each family of ops and some models, exported, linked with their C example and compared.

`python -m tests.e2e.targets build TARGET DIRECTORY` writes, for every case, the example program (`CASE/example`), its
inputs and what the NumPy interpreter computes from them. Run every `example inputs.bin > printed` where the
target's instructions exist (another machine, an emulator), bring the directory back and let
`python -m tests.e2e.targets compare DIRECTORY` say what differs. The test beside this file does all of it where an
emulator is on PATH.

Another target may sum in another order, so floating-point numbers are compared within a tolerance for their dtype,
times the largest value of the output; integers and booleans must be equal. Cases with state (training steps, random
numbers) are compared with this machine's own compiled program.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import graphc
import graphc.nn.functional as F
from graphc import nn
from graphc.compiler.api import run_graph
from graphc.passes.gradients import expand_gradients
from tests.e2e.c_programs import build_c, printed, write_inputs

__all__ = ["CASES", "Case", "build", "compare", "expected"]

_TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest value of an output, by the narrowest dtype that a case computes in."""


@dataclass(frozen=True)
class Case:
    """A function with its arguments, or a maker of both where the function has state of its own."""

    name: str
    make: Callable[[], tuple[Callable[..., Any], tuple[np.ndarray, ...]]]
    precision: str = "float32"
    calls: int = 1
    """How often the program is called with these inputs; a training step goes on from its own state."""


def _normal(*shapes: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s).astype(dtype) for s in shapes)


def _of(
    name: str, function: Callable[..., Any], *shapes: tuple[int, ...], precision: str = "float32"
) -> Case:
    return Case(name, lambda: (function, _normal(*shapes)), precision)


def _gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients of the sum of squares of `function`'s result with respect to all arguments."""

    def loss(*args: Any) -> Any:
        return (function(*args) ** 2).sum()

    def gradients(*args: Any) -> Any:
        return graphc.func.grad(loss, argnums=tuple(range(len(args))))(*args)

    return gradients


def _both(
    name: str, function: Callable[..., Any], *shapes: tuple[int, ...], precision: str = "float32"
) -> Iterator[Case]:
    yield _of(name, function, *shapes, precision=precision)
    yield _of(f"{name}-grad", _gradients(function), *shapes, precision=precision)


def _products() -> Iterator[Case]:
    for m, k, n in (
        (1, 64, 48),
        (1, 300, 7),
        (3, 5, 7),
        (17, 100, 33),
        (64, 64, 64),
        (66, 130, 257),
        (200, 256, 192),
    ):
        yield _of(f"matmul-{m}x{k}x{n}", lambda a, b: a @ b, (m, k), (k, n))
    yield _of("matmul-large", lambda a, b: (a @ b)[::37, ::41], (512, 700), (700, 640))
    yield _of("matmul-ta", lambda a, b: a.T @ b, (70, 65), (70, 81))
    yield _of("matmul-tb", lambda a, b: a @ b.T, (65, 70), (81, 70))
    yield _of("matmul-tatb", lambda a, b: a.T @ b.T, (70, 65), (81, 70))
    yield _of("matmul-vector", lambda a, b: a @ b, (130, 97), (97,))
    yield _of("matmul-few-rows", lambda a, b: a @ b.T, (8, 520), (300, 520))
    yield _of("matmul-few-columns", lambda a, b: a @ b, (300, 520), (520, 6))
    yield _of("matmul-batched", lambda a, b: a @ b, (5, 33, 20), (5, 20, 18))
    yield _of("matmul-f64", lambda a, b: a.double() @ b.double(), (33, 70), (70, 41))
    yield _of(
        "matmul-f16", lambda a, b: (a.half() @ b.half()).float(), (33, 70), (70, 41), precision="float16"
    )
    yield _of(
        "matmul-bf16",
        lambda a, b: (a.bfloat16() @ b.bfloat16()).float(),
        (33, 70),
        (70, 41),
        precision="bfloat16",
    )
    yield from _both("linear-gelu", lambda x, w, b: F.gelu(F.linear(x, w, b)), (50, 70), (90, 70), (90,))
    yield _of("einsum", lambda a, b: graphc.einsum("bij,bkj->ik", a, b), (4, 19, 23), (4, 29, 23))


def _convolutions() -> Iterator[Case]:
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
        ("3x3", (2, 16, 12, 13), (24, 16, 3, 3), {"padding": 1}),
        ("3x3-wide", (1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
        ("3x3-small-map", (4, 64, 4, 4), (64, 64, 3, 3), {"padding": 1}),
        ("3x3-stride-2", (2, 32, 28, 28), (64, 32, 3, 3), {"padding": 1, "stride": 2}),
        ("stem", (1, 3, 48, 48), (32, 3, 7, 7), {"padding": 3, "stride": 2}),
        ("1x1", (2, 32, 14, 14), (48, 32, 1, 1), {}),
        ("1x1-stride-2", (2, 32, 14, 14), (48, 32, 1, 1), {"stride": 2}),
        ("5x5", (8, 3, 32, 32), (6, 3, 5, 5), {}),
        ("depthwise", (2, 40, 14, 14), (40, 1, 3, 3), {"padding": 1, "groups": 40}),
        ("grouped-dilated", (2, 16, 15, 15), (32, 4, 3, 3), {"padding": 2, "groups": 4, "dilation": 2}),
    )
    for name, x, w, options in shapes:
        yield from _both(f"conv-{name}", lambda a, b, o=options: F.conv2d(a, b, **o), x, w)
    yield from _both("conv1d", lambda a, b: F.conv1d(a, b, padding=2), (3, 7, 50), (11, 7, 5))
    yield from _both("max-pool", lambda a: F.max_pool2d(a, 3, 2, 1), (2, 9, 21, 21))
    yield from _both("average-pool", lambda a: F.avg_pool2d(a, 2), (2, 9, 20, 22))


def _rows() -> Iterator[Case]:
    for n in (5, 65, 1000):
        yield from _both(f"softmax-{n}", lambda x: F.softmax(x, -1), (19, n))
        yield from _both(
            f"layer-norm-{n}", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), (19, n), (n,), (n,)
        )
    yield from _both("softmax-first-axis", lambda x: F.log_softmax(x, 0), (65, 19))
    yield from _both("gelu", lambda x: F.gelu(x), (37, 65))
    yield from _both("gelu-tanh", lambda x: F.gelu(x, approximate="tanh"), (37, 65))
    yield from _both(
        "maths", lambda x: x.exp() + x.sin() * x.cos() + x.tanh() + x.erf() + x.sigmoid(), (41, 33)
    )
    yield from _both(
        "logs", lambda x: (x.abs() + 0.5).log() + (x.abs() + 1).sqrt() + (x.abs() + 0.1) ** 1.7, (41, 33)
    )
    yield from _both(
        "maths-f64", lambda x: (x.double().exp() + x.double().tanh() + x.double().erf()).float(), (41, 33)
    )
    for name, axis in (("rows", 1), ("columns", 0), ("whole", None)):
        yield from _both(f"sum-{name}", lambda x, a=axis: x.sum(a), (130, 77))
        yield _of(f"mean-var-{name}", lambda x, a=axis: (x.mean(a), x.var(a)), (130, 77))
        yield _of(f"extremes-{name}", lambda x, a=axis: (x.amax(a), x.argmax(a), x.argmin(a)), (130, 77))
    yield _of("cumsum", lambda x: (x.cumsum(1), x.cumsum(0)), (21, 34))
    yield _of("casts", lambda x: ((x * 50).int(), (x * 9).long(), x > 0, (x * 3).to(graphc.uint8)), (21, 35))
    yield _of(
        "halves",
        lambda x: (x.half() * x.half()).float() + x.bfloat16().exp().float(),
        (21, 35),
        precision="bfloat16",
    )
    yield _of("integers", lambda x: _integers((x * 1000).int()), (21, 35))
    yield _of(
        "rounding", lambda x: (x.round(), x.floor(), x.ceil(), x.trunc(), (x * 7) % 3, x // 0.3), (21, 35)
    )
    yield _of(
        "selection", lambda x: (x.where(x > 0, -x), x.clamp(-0.5, 0.5), x.masked_fill(x > 1, 9)), (21, 35)
    )
    yield _of(
        "movement",
        lambda x: (x.T.flip(0), x.roll(3, 1), F.pad(x, (1, 2)), x[::2, 3:], x.repeat(2, 3)),
        (21, 35),
    )


def _integers(n: Any) -> Any:
    return n // 7, n % 7, n & 255, n ^ 77, n << 2, n >> 3, n.abs().sum(), n.float() / 3


def _lookups() -> Iterator[Case]:
    index = np.random.default_rng(3).integers(0, 50, (6, 21))

    def embedding() -> tuple[Callable[..., Any], tuple[np.ndarray, ...]]:
        def function(table: Any, at: Any) -> Any:
            return F.embedding(at, table), graphc.func.grad(lambda t: (F.embedding(at, t) ** 2).sum())(table)

        return function, (*_normal((50, 37)), index)

    def losses() -> tuple[Callable[..., Any], tuple[np.ndarray, ...]]:
        def function(x: Any, at: Any) -> Any:
            return F.cross_entropy(x, at), graphc.func.grad(lambda t: F.cross_entropy(t, at))(x)

        return function, (*_normal((6, 50)), index[:, 0].copy())

    def gather() -> tuple[Callable[..., Any], tuple[np.ndarray, ...]]:
        def function(x: Any, at: Any) -> Any:
            return x.gather(1, at), graphc.zeros(6, 50).scatter_add(1, at, x[:, :21]), x[:, at[0]]

        return function, (*_normal((6, 50)), index)

    yield Case("embedding", embedding)
    yield Case("cross-entropy", losses)
    yield Case("gather", gather)


def _attention() -> Iterator[Case]:
    for name, t, d, causal in (("short", 17, 16, True), ("causal", 130, 64, True), ("full", 150, 32, False)):
        yield from _both(
            f"attention-{name}",
            lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c),
            (1, 2, t, d), (1, 2, t, d), (1, 2, t, d),
        )  # fmt: skip


class _Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 30)

    def forward(self, at: Any) -> Any:
        x = self.table(at)
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        return self.head(x + self.mix(heads.transpose(1, 2).reshape(batch, length, 32)))


def _training(
    make: Callable[[], nn.Module], x: np.ndarray, y: np.ndarray, adam: bool = True
) -> Callable[[], tuple[Callable[..., Any], tuple[np.ndarray, ...]]]:
    def build() -> tuple[Callable[..., Any], tuple[np.ndarray, ...]]:
        graphc.manual_seed(7)
        model = make()
        parameters = list(model.parameters())
        optimizer = (
            graphc.optim.Adam(parameters, lr=1e-3)
            if adam
            else graphc.optim.SGD(parameters, lr=0.05, momentum=0.9)
        )

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            out = model(x)
            out = out[0] if isinstance(out, tuple) else out
            loss = F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
            loss.backward()
            optimizer.step()
            return loss

        return step, (x, y)

    return build


def _models() -> Iterator[Case]:
    rng = np.random.default_rng(5)

    def images(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def labels(*shape: int) -> np.ndarray:
        return rng.integers(0, 10, shape)

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

    def cnn() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
        )  # fmt: skip

    yield Case("train-mlp-sgd", _training(mlp, images(64, 784), labels(64), adam=False), calls=3)
    yield Case("train-mlp-adam", _training(mlp, images(64, 784), labels(64)), calls=3)
    yield Case("train-cnn", _training(cnn, images(8, 3, 16, 16), labels(8), adam=False), calls=2)
    yield Case("train-lstm", _training(lambda: nn.LSTM(20, 50, 2), images(9, 10, 20), labels(9, 10)), calls=2)
    yield Case("train-gru", _training(lambda: nn.GRU(20, 17), images(9, 3, 20), labels(9, 3)), calls=2)
    yield Case("train-gpt", _training(_Gpt, labels(3, 24), labels(3, 24)), calls=2)
    yield Case(
        "random",
        lambda: (lambda x: (F.dropout(x, 0.5), graphc.randn(33), graphc.randint(0, 9, (40,)), graphc.randperm(31)),
                 _normal((12, 30))),
        calls=2,
    )  # fmt: skip


CASES: dict[str, Case] = {
    c.name: c for family in (_products, _convolutions, _rows, _lookups, _attention, _models) for c in family()
}


def expected(case: Case) -> dict[str, list[list[float]]]:
    """What a case gives, spelt as the C example prints it: rows by output.

    From the NumPy interpreter where the case has no state, from this machine's compiled program where it has.
    """
    graphc.manual_seed(11)
    function, arrays = case.make()
    compiled = graphc.compile(function)
    arguments = tuple(map(graphc.tensor, arrays))
    rows: dict[str, list[list[float]]] = {}
    for _ in range(case.calls):
        if case.calls == 1:
            graph = compiled.traced(*arguments).graph.copy()
            expand_gradients(graph)
            leaves = run_graph(graph, *arrays, backend="reference")
        else:
            leaves = [leaf.detach().numpy() for leaf in _leaves(compiled(*arguments))]
        for number, leaf in enumerate(leaves):
            rows.setdefault(f"output {number}", []).append(np.asarray(leaf).reshape(-1).tolist())
    return rows


def _leaves(result: Any) -> list[Any]:
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in _leaves(part)]
    return [result]


def build(case: Case, target: str, directory: Path, *, compiler: str = "cc") -> Path:
    """Exports `case` for `target` into `directory` with its C example program and its inputs; returns the program."""
    graphc.manual_seed(11)
    function, arrays = case.make()
    files = graphc.export_library(function, arrays, directory / "libcase.so", target=target)
    write_inputs(directory, [arrays] * case.calls)
    return build_c(files, directory, compiler=compiler)


def compare(case: Case, found: dict[str, list[Any]], wanted: dict[str, list[list[float]]]) -> list[str]:
    """What differs between a printed run and this machine's, a line each; empty where nothing does."""
    problems = []
    for label, rows in wanted.items():
        for at, row in enumerate(rows):
            want = np.array(row)
            if len(found.get(label, [])) <= at:
                problems.append(f"{case.name}: {label} of call {at} is missing")
                continue
            got = np.array(found[label][at])
            if got.shape != want.shape:
                problems.append(f"{case.name}: {label} has {got.size} values, expected {want.size}")
            elif want.dtype.kind in "ib":
                if (got != want).any():
                    problems.append(
                        f"{case.name}: {label}: {np.count_nonzero(got != want)} of {want.size} differ"
                    )
            else:
                bound = _TOLERANCE[case.precision] * max(1.0, float(np.abs(want).max(initial=0)))
                with np.errstate(invalid="ignore"):
                    wrong = ~(
                        (np.abs(got - want) <= bound) | (np.isnan(got) & np.isnan(want)) | (got == want)
                    )
                if wrong.any():
                    worst = float(np.abs(got - want)[wrong].max())
                    problems.append(
                        f"{case.name}: {label}: {wrong.sum()} of {want.size} differ, by up to {worst:.3g}"
                    )
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """The command of the module's docstring; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.targets", description=__doc__.partition("\n\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("build", help="write every case's program, inputs and expected numbers")
    writing.add_argument("target")
    writing.add_argument("directory", type=Path)
    writing.add_argument("--compiler", default="cc", help="the C compiler for the example programs")
    writing.add_argument("--cases", nargs="*", default=sorted(CASES))
    reading = commands.add_parser("compare", help="compare CASE/printed with what was expected")
    reading.add_argument("directory", type=Path)
    asked = parser.parse_args(argv)
    if asked.command == "build":
        for name in asked.cases:
            build(CASES[name], asked.target, asked.directory / name, compiler=asked.compiler)
            (asked.directory / name / "expected.json").write_text(json.dumps(expected(CASES[name])))
            print(name, flush=True)
        return 0
    problems = []
    done = sorted(p.parent for p in asked.directory.glob("*/expected.json"))
    for place in done:
        output = place / "printed"
        if not output.exists():
            problems.append(f"{place.name}: not run")
            continue
        wanted = json.loads((place / "expected.json").read_text())
        problems += compare(CASES[place.name], printed(output.read_text()), wanted)
    print("\n".join(problems) or "no difference", f"({len(done)} cases)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
