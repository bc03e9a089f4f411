"""The one check of kernel code generation: native results against the interpreter, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.ir.kernel import Kernel
from graphc.ir.kernel_parser import parse_kernel
from graphc.ir.kernel_verifier import verify_kernel
from graphc.ir.target import Target
from graphc.ir.types import DType
from tests.backends.kernel.interpreter import Interpreter
from tests.backends.kernel.native import RUNNABLE, Native

__all__ = ["bits", "check", "scheduled", "values"]

Draw = Callable[[np.random.Generator, DType, tuple[int, ...]], Any]


def values(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Any:
    """Small random values of a dtype, ties and zeros among them."""
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind == "float":
        x = rng.standard_normal(shape)
        return np.where(rng.integers(0, 4, shape) == 0, np.round(x), x).astype(dtype.numpy)
    return rng.integers(0 if dtype.kind == "uint" else -5, 6, shape).astype(dtype.numpy)


def bits(array: Any) -> Any:
    """An array as unsigned integers, all NaNs made one."""
    array = np.array(array)
    if array.dtype.kind != "b" and array.dtype.kind not in "iu":
        array[np.isnan(array)] = np.nan
    return array.view(f"u{array.dtype.itemsize}")


def scheduled(text: str, loops: str, *stages: str) -> Kernel:
    """A kernel from text without a schedule, with one given in the text's spelling."""
    lines = "\n".join(f"stage {s}" for s in stages)
    return parse_kernel(f"{text.strip()[:-1]}\nschedule loops parts 3 {{\nloops {loops}\n{lines}\n}}\n}}")


def check(
    kernel: Kernel,
    *,
    inputs: Sequence[Any] | None = None,
    draw: Draw = values,
    targets: Sequence[Target] = RUNNABLE,
    parts: Sequence[int] = (1, 2, 3, 7),
    steps: float = 0,
    error: int | None = 2**63 - 1,
) -> None:
    """Runs a scheduled kernel on random (or the given) buffers on every target, in every division.

    All divisions agree bit for bit; the interpreter agrees within `steps` units in the last place
    (0: bit for bit), and gives the same error word (`error`, unless None).
    """
    verify_kernel(kernel)
    rng = np.random.default_rng(3)
    given = (
        inputs if inputs is not None else [draw(rng, b.type.dtype, b.type.sizes) for b in kernel.parameters]
    )
    for target in targets:
        expected = [np.array(a) for a in given]
        with np.errstate(all="ignore"):
            found = Interpreter(kernel, target).run(expected)
        assert error is None or found == error
        native = Native(kernel, target)
        for count in parts:
            got = [np.array(a) for a in given]
            assert native.run(got, count, range(count - 1, -1, -1)) == found
            allowed = steps if count == parts[0] else 0
            for n, (x, y) in enumerate(zip(got, expected, strict=True)):
                _compare(x, y, allowed, f"b{n} on {target.name} in {count} parts\n{kernel}")
            expected = got


def _compare(x: Any, y: Any, steps: float, message: str) -> None:
    if steps == 0:
        np.testing.assert_array_equal(bits(x), bits(y), err_msg=message)
        return
    eps = float(np.finfo(x.dtype).eps) if x.dtype.kind == "f" else 0.0
    np.testing.assert_allclose(x, y, rtol=steps * eps, atol=steps * eps * 1e-3, err_msg=message)
