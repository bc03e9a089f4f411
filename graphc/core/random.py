"""The random generator: a counter-based stream whose state is graph state.

State is (seed, base) as two int64. A random op takes the state and a static offset; its element i
depends on (seed, base + offset, i) only. One advance of the base is recorded per recording,
whatever was drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.core.evaluate import evaluate
from graphc.core.modes import unrecorded
from graphc.core.recording import current
from graphc.core.tensor import assign, constant, from_array, record
from graphc.runtime.state import bump_epoch

__all__ = ["Generator", "default_generator", "initial_seed", "manual_seed", "next_random", "seed"]


class Generator:
    """A stream of random numbers. Raises TypeError for a seed that is no int."""

    def __init__(self, device: Any = None) -> None:
        self._seed = 67280421310721
        self._made: Any = None

    @property
    def _state(self) -> Any:
        # Made on first use: importing graphc loads no native code.
        if self._made is None:
            self._made = from_array(np.array([self._seed, 0], np.int64), share=False, role="rng", name="rng")
        return self._made

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream again at `seed`; returns the generator."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"manual_seed expected a long, but got {type(seed).__name__}")
        value = int(seed)
        if not -(2**63) <= value < 2**64:
            raise RuntimeError(f"Overflow when unpacking long: seed {value} does not fit 64 bits")
        value = value - 2**64 if value >= 2**63 else value
        if current().trace is None:
            # Numbers drawn before come from the old seed.
            evaluate(current())
        self._state._values()[...] = (value, 0)
        self._seed = int(seed)
        bump_epoch()
        return self

    def initial_seed(self) -> int:
        """The seed that the stream was started with."""
        return self._seed

    def next(self, count: int) -> tuple[Any, int]:
        """(state tensor, offset) for a random op that draws `count` elements."""
        drawn = current().random
        offset = drawn.get(self._advance, 0)
        drawn[self._advance] = offset + count
        return self._state, offset

    def _advance(self, count: int) -> None:
        with unrecorded():
            step = constant(np.array([0, count], np.int64))
            assign(self._state, record("add", self._state, step))


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator; returns it. Raises ValueError or TypeError for what `int` does not take."""
    return default_generator.manual_seed(int(seed))


def seed() -> int:
    """Seeds the default generator from the operating system; returns the seed."""
    value = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
    default_generator.manual_seed(value)
    return value


def initial_seed() -> int:
    """The default generator's seed."""
    return default_generator.initial_seed()


def next_random(count: int, generator: Generator | None = None) -> tuple[Any, int]:
    """(state tensor, offset) for a random op of `count` elements; see `Generator.next`."""
    return (generator or default_generator).next(count)
