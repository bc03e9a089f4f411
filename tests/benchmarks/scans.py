"""Loops against JAX's, and what a loop's length costs the compiler.

    python -m tests.benchmarks.scans [--threads N] [--lock FILE]

Gradients of scans (and an open loop) jitted by both, in one process, rounds in turn; medians over rounds. Then seconds from a
traced graph to a program that can run, for 10 and 10,000 steps in turn. The disk cache is off.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc
from graphc.compiler.driver import compile_graph
from tests.benchmarks.quietness import undisturbed

Call = Callable[[], Any]
_ROUNDS = 15
_LEAST_SECONDS = 0.004
_LENGTHS = (10, 10_000)


@dataclass(frozen=True)
class Library:
    """What the cases below are written in."""

    scan: Callable[..., Any]
    while_loop: Callable[..., Any]
    tanh: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]


Step = Callable[[Any, Any, Any], Any]


def _decay(lib: Library, w: Any) -> Step:
    return lambda c, x, _: lib.tanh(c * 0.9 + x)


def _elman(lib: Library, w: Any) -> Step:
    return lambda c, x, _: lib.tanh(c @ w + x)


def _gated(lib: Library, w: Any) -> Step:
    n = w.shape[0]

    def step(c: Any, x: Any, _: Any) -> Any:
        gates = c @ w
        i, f, g = (gates[:, k * n : (k + 1) * n] for k in range(3))
        return lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g + x)

    return step


@dataclass(frozen=True)
class Case:
    """A scan: the shapes of a carried value, a weight; its number of steps."""

    name: str
    carry: tuple[int, ...]
    weight: tuple[int, ...]
    steps: int
    make: Callable[[Library, Any], Step]


CASES = [
    Case("elementwise, 1000 steps of 8", (8,), (1,), 1000, _decay),
    Case("elementwise, 1000 steps of 4096", (4096,), (1,), 1000, _decay),
    Case("tanh(h·W + x), 100 steps of 8×64", (8, 64), (64, 64), 100, _elman),
    Case("tanh(h·W + x), 100 steps of 32×128", (32, 128), (128, 128), 100, _elman),
    Case("gates, 50 steps of 16×128", (16, 128), (128, 384), 50, _gated),
]


def _scan(lib: Library, case: Case) -> Callable[..., Any]:
    """The last state and the squares of all states, of (state, weight, slices)."""

    def scan(c: Any, w: Any, xs: Any) -> Any:
        step = case.make(lib, w)

        def body(c: Any, x: Any) -> Any:
            following = step(c, x, w)
            return following, following * following

        return lib.scan(body, c, xs)

    return scan


def _loss(lib: Library, case: Case) -> Callable[..., Any]:
    """The sum of all that."""
    scan = _scan(lib, case)

    def loss(c: Any, w: Any, xs: Any) -> Any:
        last, all_ = scan(c, w, xs)
        return last.sum() + all_.sum()

    return loss


def _open(lib: Library, steps: int) -> Callable[..., Any]:
    return lambda n, c: lib.while_loop(
        lambda s: s[0] < steps, lambda s: (s[0] + 1, s[1] * 0.5 + 1.0), (n, c)
    )[1]


def _graphc() -> Library:
    def while_loop(test: Any, step: Any, state: Any) -> Any:
        return graphc.while_loop(lambda *s: test(s), lambda *s: step(s), state)

    return Library(graphc.scan, while_loop, graphc.tanh, graphc.sigmoid)


def _calls(jax: Any) -> list[tuple[str, dict[str, Call]]]:
    """What is timed: for each case a call in each library."""
    theirs = Library(
        jax.lax.scan, lambda t, s, x: jax.lax.while_loop(t, s, x), jax.numpy.tanh, jax.nn.sigmoid
    )
    rng, found = np.random.default_rng(0), []
    for case in CASES:
        shapes = case.carry, case.weight, (case.steps, *case.carry)
        arrays = [(rng.standard_normal(s) * 0.1).astype(np.float32) for s in shapes]
        found.append((
            f"gradient of a scan: {case.name}",
            {"graphc": _bound(graphc.compile(graphc.func.grad(_loss(_graphc(), case), argnums=(0, 1, 2))),
                              [graphc.tensor(a) for a in arrays], lambda _: None),
             "jax": _bound(jax.jit(jax.grad(_loss(theirs, case), argnums=(0, 1, 2))), [jax.numpy.asarray(a) for a in arrays],
                           jax.block_until_ready)},
        ))  # fmt: skip
    for size in (8, 4096):
        found.append((
            f"open loop: 1000 steps of {size}",
            {"graphc": _bound(graphc.compile(_open(_graphc(), 1000)), [graphc.tensor(0), graphc.ones(size)], lambda _: None),
             "jax": _bound(jax.jit(_open(theirs, 1000)), [jax.numpy.asarray(0), jax.numpy.ones(size)], jax.block_until_ready)},
        ))  # fmt: skip
    return found


def _bound(function: Any, arguments: list[Any], wait: Callable[[Any], Any]) -> Call:
    return lambda: wait(function(*arguments))


def _seconds(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def compare(lock: str | None) -> None:
    """Prints a line a case: microseconds a call."""
    import jax

    print(f"{'µs a call':52}{'graphc':>10}{'jax':>10}{'ratio':>8}")
    for name, calls in _calls(jax):
        with graphc.no_grad():
            counts = {
                k: max(1, int(_LEAST_SECONDS / (_seconds(c, 3), _seconds(c, 5))[1])) for k, c in calls.items()
            }
            times: dict[str, list[float]] = {k: [] for k in calls}
            with undisturbed(lock):
                for _ in range(_ROUNDS):
                    for k, call in calls.items():
                        times[k].append(_seconds(call, counts[k]))
        ours, other = (statistics.median(times[k]) * 1e6 for k in ("graphc", "jax"))
        print(f"{name:52}{ours:10,.1f}{other:10,.1f}{other / ours:7.2f}×", flush=True)


def lengths(lock: str | None) -> None:
    """Prints a line a case: milliseconds of compiling loops of few and many steps."""
    print(
        f"{'ms from graph to program, steps':52}" + "".join(f"{n:>10,}" for n in _LENGTHS) + f"{'ratio':>8}"
    )
    for case in CASES:
        if case.carry == (4096,):
            continue
        gradient = graphc.func.grad(_loss(_graphc(), case), argnums=(0, 1))
        for kind, f in (("scan", _scan(_graphc(), case)), ("gradient", gradient)):
            found: dict[int, list[float]] = {n: [] for n in _LENGTHS}
            w = graphc.zeros(*case.weight)
            for _ in range(5):
                for n in _LENGTHS:
                    c = (
                        graphc.zeros(*(min(s, 32) for s in case.carry))
                        if case.weight == (1,)
                        else graphc.zeros(*case.carry)
                    )
                    graph = graphc.compile(f).trace(c, w, graphc.zeros(n, *c.shape))
                    with undisturbed(lock):
                        start = time.perf_counter()
                        compile_graph(graph)
                        found[n].append(time.perf_counter() - start)
            few, many = (statistics.median(found[n]) * 1e3 for n in _LENGTHS)
            print(
                f"{kind + ': ' + case.name.partition(',')[0]:52}{few:10.1f}{many:10.1f}{many / few:7.2f}×",
                flush=True,
            )


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["times", "lengths"])
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    options = parser.parse_args()
    os.environ["GRAPHC_CACHE_DIR"] = ""
    os.environ["NPROC"] = str(options.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    graphc.set_num_threads(options.threads)
    if options.only != "lengths":
        compare(options.lock)
    if options.only != "times":
        lengths(options.lock)


if __name__ == "__main__":
    main()
