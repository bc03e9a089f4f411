"""Compares graphc with PyTorch: outputs, gradients, ten optimiser steps, at `assert_close`'s defaults.

A function row is `Row(name, lambda t, x, y: …, operands…)`, called once with PyTorch and once with
graphc as `t`. A module row builds the same Module in both, copies PyTorch's state over and trains.
Operands are shapes (standard normal float32), or `Data` for another distribution or dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import graphc

__all__ = [
    "Data",
    "ModuleRow",
    "OptimiserRow",
    "Row",
    "bools",
    "check_function",
    "check_module",
    "check_optimiser",
    "ints",
    "positive",
    "unit",
]


@dataclass(frozen=True)
class Data:
    """Drawn NumPy data; `grad` says whether its gradient is compared."""

    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...]], Any]
    grad: bool = False


def ints(*shape: int, low: int = 0, high: int = 10, dtype: Any = np.int64) -> Data:
    """Integers in [low, high)."""
    return Data(shape, lambda rng, s: rng.integers(low, high, s).astype(dtype))


def bools(*shape: int) -> Data:
    """Random bools."""
    return Data(shape, lambda rng, s: rng.integers(0, 2, s).astype(bool))


def positive(*shape: int, dtype: Any = np.float32) -> Data:
    """Floats in [0.1, 2.1)."""
    return Data(shape, lambda rng, s: (rng.random(s) * 2 + 0.1).astype(dtype), grad=True)


def unit(*shape: int) -> Data:
    """Floats in [0.05, 0.95)."""
    return Data(shape, lambda rng, s: (rng.random(s) * 0.9 + 0.05).astype(np.float32), grad=True)


def normal(*shape: int, dtype: Any = np.float32) -> Data:
    """Standard normal floats."""
    return Data(shape, lambda rng, s: rng.standard_normal(s).astype(dtype), grad=True)


def double(*shape: int) -> Data:
    """Standard normal float64."""
    return normal(*shape, dtype=np.float64)


@dataclass(frozen=True)
class Row:
    """One function: what to call, on what."""

    name: str
    call: Callable[..., Any]
    operands: tuple[Any, ...] = ()
    grad: bool = True

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ModuleRow:
    """One Module: how to build it, its input, and the loss after it (default: weighted sum)."""

    name: str
    build: Callable[[Any], Any]
    operands: tuple[Any, ...]
    loss: Callable[..., Any] | None = None
    modes: tuple[bool, ...] = (True, False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class OptimiserRow:
    """One optimiser over the parameters of a small network."""

    name: str
    build: Callable[[Any, Any], Any]
    schedule: Callable[[Any, Any], Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def row(name: str, call: Callable[..., Any], *operands: Any, grad: bool = True) -> Row:
    """A function row in one line."""
    return Row(name, call, operands, grad)


def arrays(operands: Sequence[Any], seed: int = 0) -> list[tuple[Any, bool]]:
    """NumPy data of the operands, and whether their gradient is compared."""
    rng = np.random.default_rng(seed)
    drawn = [normal(*o) if isinstance(o, tuple) else o for o in operands]
    return [(np.asarray(d.draw(rng, d.shape)), d.grad) for d in drawn]


def tensors(t: Any, data: Sequence[tuple[Any, bool]], grad: bool) -> list[Any]:
    """The data as tensors of `t`, requiring grad where asked."""
    return [t.tensor(a, requires_grad=grad and wanted) for a, wanted in data]


def flat(x: Any) -> Iterator[Any]:
    """Tensors and numbers of a nest, in order."""
    if isinstance(x, (list, tuple)) and not isinstance(x, (torch.Size, graphc.Size)):
        for item in x:
            yield from flat(item)
    elif isinstance(x, dict):
        for key in x:
            yield from flat(x[key])
    else:
        yield x


def close(ours: Any, theirs: Any, what: str) -> None:
    """Asserts that a graphc result is PyTorch's: kind, dtype, shape, values."""
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs and type(ours).__name__ == type(theirs).__name__, (
            f"{what}: {ours!r} != {theirs!r}"
        )
        return
    assert isinstance(ours, graphc.Tensor), f"{what}: {type(ours)}"
    assert ours.dtype.torch_name == str(theirs.dtype).removeprefix("torch."), (
        f"{what}: {ours.dtype} != {theirs.dtype}"
    )
    values = ours.detach().float() if ours.dtype is graphc.bfloat16 else ours.detach()
    expected = theirs.detach().float() if theirs.dtype is torch.bfloat16 else theirs.detach()
    tolerance = {"rtol": 1.6e-2, "atol": 1e-5} if theirs.dtype is torch.bfloat16 else {}
    torch.testing.assert_close(
        torch.from_numpy(np.array(values.numpy())),
        expected.contiguous(),
        equal_nan=True,
        msg=lambda m: f"{what}: {m}",
        **tolerance,
    )


def all_close(ours: Any, theirs: Any, what: str) -> None:
    """`close` of every tensor of two nests."""
    a, b = list(flat(ours)), list(flat(theirs))
    assert len(a) == len(b), f"{what}: {len(a)} results, PyTorch gives {len(b)}"
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        close(x, y, f"{what} {i}" if len(a) > 1 else what)


def weighted(t: Any, outputs: Any) -> Any:
    """A number that depends on every float output with a different weight each."""
    total = None
    for i, x in enumerate(flat(outputs)):
        if isinstance(x, t.Tensor) and x.dtype.is_floating_point and x.requires_grad:
            weight = t.arange(1, x.numel() + 1, dtype=x.dtype).reshape(x.shape) * 0.37 + i
            part = (x * t.cos(weight)).sum()
            total = part if total is None else total + part
    return total


def check_function(r: Row) -> None:
    """Outputs and gradients of a function row."""
    data = arrays(r.operands)
    results = []
    for t in (graphc, torch):
        xs = tensors(t, data, r.grad)
        outputs = r.call(t, *xs)
        total = weighted(t, outputs) if r.grad else None
        if total is not None:
            total.backward()
        results.append((outputs, [x.grad for x in xs if isinstance(x, t.Tensor) and x.grad is not None]))
    (ours, our_grads), (theirs, their_grads) = results
    all_close(ours, theirs, f"{r.name} output")
    all_close(our_grads, their_grads, f"{r.name} gradient")


def copy_state(module: Any, source: Any) -> None:
    """PyTorch's state into a graphc Module; the keys must be the same."""
    state = {k: graphc.from_numpy(v.detach().numpy().copy()) for k, v in source.state_dict().items()}
    assert list(module.state_dict()) == list(state), (
        f"state-dict keys {list(module.state_dict())} != {list(state)}"
    )
    module.load_state_dict(state)


def module_loss(t: Any, r: ModuleRow, output: Any) -> Any:
    """The loss that the row gives, or a weighted sum."""
    return weighted(t, output) / 10 if r.loss is None else r.loss(t, output)


def check_module(r: ModuleRow) -> None:
    """Text, state-dict keys, outputs, gradients and ten SGD steps of a Module, in training and evaluation."""
    torch.manual_seed(0)
    theirs, ours = r.build(torch), r.build(graphc)
    assert repr(ours) == repr(theirs), f"{ours!r} != {theirs!r}"
    copy_state(ours, theirs)
    data = arrays(r.operands)
    for training in r.modes:
        outcomes = []
        for t, module in ((graphc, ours), (torch, theirs)):
            module.train(training)
            module.zero_grad()
            xs = tensors(t, data, True)
            output = module(*xs)
            loss = module_loss(t, r, output)
            if loss is not None:
                loss.backward()
            grads = [x.grad for x in xs if isinstance(x, t.Tensor) and x.grad is not None]
            grads += [p.grad for p in module.parameters() if p.grad is not None]
            outcomes.append((output, grads, list(module.buffers())))
        all_close(*(o[0] for o in outcomes), f"{r.name} output")
        all_close(*(o[1] for o in outcomes), f"{r.name} gradient")
        all_close(*(o[2] for o in outcomes), f"{r.name} buffer")
    if list(theirs.parameters()):
        _ten_steps(r, ours, theirs, data)


def _ten_steps(r: ModuleRow, ours: Any, theirs: Any, data: list[tuple[Any, bool]]) -> None:
    losses: list[list[Any]] = [[], []]
    for which, (t, module) in enumerate(((graphc, ours), (torch, theirs))):
        module.train(r.modes[0])
        optimiser = t.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
        for _ in range(10):
            optimiser.zero_grad()
            loss = module_loss(t, r, module(*tensors(t, data, False)))
            loss.backward()
            optimiser.step()
            losses[which].append(loss.detach())
    all_close(losses[0], losses[1], f"{r.name} loss of a step")
    all_close(
        list(ours.state_dict().values()),
        list(theirs.state_dict().values()),
        f"{r.name} state after ten steps",
    )


def check_optimiser(r: OptimiserRow) -> None:
    """Parameters, losses, rates and state after ten steps, five of them after saving and loading the state."""
    (x, _), (y, _) = arrays([(16, 5), (16, 3)])
    torch.manual_seed(0)
    outcomes: list[list[Any]] = []
    start: Any = None
    for t in (torch, graphc):
        net = t.nn.Sequential(t.nn.Linear(5, 8), t.nn.Tanh(), t.nn.Linear(8, 3))
        if start is None:
            start = net
            state = {k: v.detach().numpy().copy() for k, v in net.state_dict().items()}
        net.load_state_dict({k: t.from_numpy(v.copy()) for k, v in state.items()})
        optimiser = r.build(t, net)
        scheduler = r.schedule(t, optimiser) if r.schedule is not None else None
        seen: list[Any] = []
        for step in range(10):
            optimiser.zero_grad()
            loss = t.nn.functional.mse_loss(net(t.tensor(x)), t.tensor(y))
            loss.backward()
            optimiser.step()
            if scheduler is not None:
                scheduler.step()
            seen += [loss.detach(), optimiser.param_groups[0]["lr"]]
            if step == 4:
                saved = optimiser.state_dict()
                optimiser = r.build(t, net)
                optimiser.load_state_dict(saved)
                if scheduler is not None:
                    scheduler.optimizer = optimiser
        seen += list(net.state_dict().values())
        theirs_state = optimiser.state_dict()["state"]
        seen.append(
            {
                i: {k: v for k, v in s.items() if v is not None and k != "first"}
                for i, s in sorted(theirs_state.items())
            }
        )
        outcomes.append(seen)
    for i, (a, b) in enumerate(zip(outcomes[1], outcomes[0], strict=True)):
        all_close(a, b, f"{r.name} value {i}")
