"""Tries the mathematical functions on every float32, and on many doubles and pairs.

`python -m tests.backends.math.exhaustive [--function F …] [--target T …] [--samples N] [--f64]`
prints a row for each function and target that runs here: largest error in ULP, where it
occurs, how many NaNs or signs are wrong, and how many arguments were tried. Without
`--samples` a unary float32 function gets all 2^32 bit patterns (a few minutes each on one
core); `pow` and everything with `--f64` get random samples (ten million by default) and
every combination of `EDGES`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.backends.llvm.math import BOUNDS, FUNCTIONS
from graphc.ir.target import TARGETS
from tests.backends.math.jit import Kernel, compile_kernel, runnable
from tests.backends.math.measure import Error, Exact, Sieve, merge
from tests.backends.math.reference import EDGES, REFERENCES, Array

__all__ = ["arguments", "largest_errors", "main"]

_BLOCK = 1 << 15
_FORMATS: dict[str, tuple[str, Any, Any, Any]] = {
    "f32": ("float", np.float32, np.float64, np.uint32),
    "f64": ("double", np.float64, np.longdouble, np.uint64),
}
_DRAWS = {"f32": 24, "f64": 40}
"""Largest |log2| of the moderate random arguments."""


def arguments(function: str, format_: str, samples: int | None) -> Iterator[tuple[Array, ...]]:
    """Blocks of arguments, each a multiple of 64 long; all of float32 where `samples` is None."""
    _, narrow, _, bits = _FORMATS[format_]
    yield _edges(function, narrow)
    if function != "pow" and format_ == "f32":
        step = 1 if samples is None else max(1, (1 << 32) // samples) | 1
        block = np.arange(_BLOCK, dtype=np.uint64) * step
        for start in range(0, 1 << 32, _BLOCK * step):
            yield ((block + start).astype(np.uint32).view(np.float32),)
        return
    rng = np.random.default_rng(20240229)
    for _ in range(0, 10_000_000 if samples is None else samples, _BLOCK):
        x = _random(rng, narrow, bits, _DRAWS[format_])
        yield (x, _exponents(rng, x)) if function == "pow" else (x,)


def _edges(function: str, narrow: Any) -> tuple[Array, ...]:
    with np.errstate(over="ignore"):
        values: Array = np.array([*EDGES, *(-e for e in EDGES)]).astype(narrow)
    columns = [values]
    if function == "pow":
        columns = [a.ravel() for a in np.meshgrid(values, values)]
    return tuple(np.resize(c, -(-c.size // 64) * 64) for c in columns)


def _random(rng: np.random.Generator, narrow: Any, bits: Any, reach: int) -> Array:
    """A third of all bit patterns, a third of moderate numbers, a third near ±1."""
    third = _BLOCK // 3
    patterns: Array = rng.integers(0, np.iinfo(bits).max, third, dtype=bits, endpoint=True).view(narrow)
    signs = rng.choice([-1.0, 1.0], _BLOCK - third)
    moderate = 2.0 ** rng.uniform(-reach, min(reach, 12), third)
    near_one = 2.0 ** rng.uniform(-1.0, 1.0, _BLOCK - 2 * third)
    return np.concatenate([patterns, (signs * np.r_[moderate, near_one]).astype(narrow)])


def _exponents(rng: np.random.Generator, x: Array) -> Array:
    """Exponents for which x^y mostly neither overflows nor underflows, some of them integers."""
    reach = 160.0 if x.dtype == np.float32 else 1100.0
    with np.errstate(all="ignore"):
        scale = np.abs(np.log2(np.abs(x.astype(np.longdouble))))
        y = rng.uniform(-reach, reach, x.size) / np.where((scale > 0) & np.isfinite(scale), scale, 1)
        y = np.where(np.arange(x.size) % 4 == 0, np.rint(y), y)
        y = np.where(np.arange(x.size) % 64 == 1, rng.integers(-3, 4, x.size) / 2, y)
        return np.asarray(y.astype(x.dtype))


def largest_errors(
    function: str, format_: str, targets: Sequence[str], samples: int | None
) -> dict[str, Error]:
    """The error of one function on each target, over `arguments`."""
    scalar, narrow, wide, _ = _FORMATS[format_]
    arity = 2 if function == "pow" else 1
    kernels: dict[str, Kernel] = {
        t: compile_kernel(
            FUNCTIONS[function], TARGETS[t], [scalar] * arity, scalar, TARGETS[t].width(np.finfo(narrow).bits)
        )
        for t in targets
    }
    sieve = Sieve() if format_ == "f32" else None
    errors = {t: Error() for t in targets}
    with np.errstate(all="ignore"):
        for block in arguments(function, format_, samples):
            reference = REFERENCES[function](*(a.astype(wide) for a in block))
            for t, kernel in kernels.items():
                result = kernel(*block)
                if sieve is None or sieve(reference, result, errors[t].ulp):
                    errors[t] = merge(errors[t], Exact(reference, narrow).error(result, *block))
                else:
                    errors[t].count += result.size
    return errors


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a bound is exceeded or a special value is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--function", action="append", choices=list(FUNCTIONS))
    parser.add_argument("--target", action="append", choices=runnable())
    parser.add_argument("--samples", type=int)
    parser.add_argument("--f64", action="store_true")
    options = parser.parse_args(argv)
    format_ = "f64" if options.f64 else "f32"
    print(f"{'function':9}{'format':7}{'target':10} {'max ULP':>8} {'bound':>6}  {'worst at':44}"
          f"{'wrong':>6} {'tried':>11} {'s':>6}")  # fmt: skip
    failed = False
    for function in options.function or FUNCTIONS:
        started = time.perf_counter()
        errors = largest_errors(function, format_, options.target or runnable(), options.samples)
        seconds = time.perf_counter() - started
        for target, e in errors.items():
            bound = BOUNDS[function][format_]
            failed |= e.ulp > bound or e.mismatches > 0
            worst = ", ".join(f"{v!r}" for v in e.worst)
            wrong = f" wrong first at {e.first_mismatch}" if e.mismatches else ""
            print(f"{function:9}{format_:7}{target:10} {e.ulp:8.4f} {bound:6.2f}  {worst:44}"
                  f"{e.mismatches:6} {e.count:11} {seconds:6.0f}{wrong}", flush=True)  # fmt: skip
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
