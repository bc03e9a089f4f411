"""The random generator: a counter-based stream whose state is graph state.

State is (seed, base) as two int64. A random op takes the state and a static offset; its element i
depends on (seed, base + offset, i) only. One advance of the base is recorded per recording,
whatever was drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from graphc.core.evaluate import evaluate
from graphc.core.location import annotate
from graphc.core.modes import unrecorded
from graphc.core.node import Node
from graphc.core.recording import current
from graphc.core.tensor import TensorBase, assign, constant, from_array, record
from graphc.devices import check_device
from graphc.ir.dims import Dim
from graphc.ir.ops.philox import philox_reference
from graphc.ir.types import int64
from graphc.runtime.state import bump_epoch

__all__ = ["Generator", "default_generator", "fork_rng", "initial_seed", "manual_seed", "next_random", "seed"]


class Generator:
    """A stream of random numbers. Raises RuntimeError for a device that is not there."""

    def __init__(self, device: Any = None) -> None:
        check_device(device)
        self._seed = 67280421310721
        self._made: Any = None
        self._split = 0
        """How many streams were split off since the seed was set."""

    @property
    def _state(self) -> Any:
        # Made on first use: importing graphc loads no native code.
        if self._made is None:
            self._made = from_array(np.array([self._seed, 0], np.int64), share=False, role="rng", name="rng")
        return self._made

    @property
    def device(self) -> str:
        """Where the numbers are drawn."""
        return "cpu"

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream again at `seed`; returns the generator.

        A negative seed is what it is with 64 bits and no sign. Raises RuntimeError for a seed that is no int,
        ValueError for one that 64 bits do not hold.
        """
        error: Exception | None = None
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            error = RuntimeError(
                f"manual_seed expected a long, but got {type(seed).__name__}; give a whole number as the seed"
            )
        elif not -(2**63) <= int(seed) < 2**64:
            error = ValueError(
                f"Overflow when unpacking long long: seed {int(seed)} does not fit 64 bits; give one from -2**63 to 2**64 - 1"
            )
        if error is not None:
            annotate(error)
            raise error
        value = int(seed) % 2**64
        self._put((value - 2**64 if value >= 2**63 else value, 0))
        self._seed, self._split = value, 0
        return self

    def _put(self, values: tuple[int, int]) -> None:
        """Writes the state; numbers drawn before come from the old one."""
        if current().trace is None:
            evaluate(current())
            self._state._values()[...] = values
            bump_epoch()
        else:
            current().random.pop(self, None)
            with unrecorded():
                assign(self._state, constant(np.array(values, np.int64)))

    def seed(self) -> int:
        """Seeds the stream from the operating system; returns the seed."""
        value = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
        self.manual_seed(value)
        return value

    def get_state(self) -> Any:
        """The state (seed and position) as an int64 tensor of two elements."""
        self._flush()
        return record("reshape", self._state, shape=(2,))

    def set_state(self, new_state: Any) -> Generator:
        """Puts the stream where `get_state` was called. Raises TypeError for what is no such state."""
        if not isinstance(new_state, TensorBase) or new_state.tensor_type != self._state.tensor_type:
            got = new_state.tensor_type if isinstance(new_state, TensorBase) else type(new_state).__name__
            error = TypeError(f"expected a state that get_state gave, i64[2], got {got}")
            annotate(error)
            raise error
        if current().trace is None:
            values = new_state._values().tolist()
            self._put((values[0], values[1]))
            self._seed = values[0] % 2**64
        else:
            self._flush()
            with unrecorded():
                assign(self._state, new_state)
        return self

    def clone_state(self) -> Generator:
        """Another generator in the same state."""
        twin = Generator()
        return twin.set_state(self.get_state())

    graphsafe_get_state = clone_state

    def split(self, count: int = 2) -> list[Generator]:
        """`count` generators of streams of their own, independent of this one and of one another.

        Their seeds are drawn at counters that this stream never reaches; the next split gives others. This
        stream does not advance.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            error = TypeError(f"split: expected a number of streams, got {count!r}")
            annotate(error)
            raise error
        words = philox_reference(self._seed, -(2**63) + self._split, count).astype(np.uint64)
        self._split += count
        return [
            Generator().manual_seed((int(a) << 32) | int(b)) for a, b in zip(words[0], words[1], strict=True)
        ]

    def fork(self) -> Generator:
        """One generator of a stream of its own; see `split`."""
        return self.split(1)[0]

    def _flush(self) -> None:
        """Records the advance for what was drawn so far."""
        drawn = current().random.pop(self, 0)
        if drawn:
            self.advance(drawn)

    def initial_seed(self) -> int:
        """The seed that the stream was started with."""
        return self._seed

    def next(self, count: int) -> tuple[Any, int]:
        """(state tensor, offset) for a random op that draws `count` elements."""
        drawn = current().random
        offset = drawn.get(self, 0)
        drawn[self] = offset + count
        return self._state, offset

    def advance_behind(self, count: Dim) -> Callable[[], None] | None:
        """What advances the state's memory behind a program that reads it; None where the state is pending."""
        storage = self._state._storage
        memory = storage.node.memory
        if memory is None or not isinstance(count, int):
            return None

        def advance() -> None:
            memory.array[1:] += count
            memory.version += 1
            storage.node = Node(memory.type, memory=memory)

        return advance

    def advance(self, count: Dim) -> None:
        """Records the advance of the state by a number of elements."""
        with unrecorded():
            if isinstance(count, int):
                step = constant(np.array([0, count], np.int64))
            else:
                drawn = record("expand", record("size", value=count, dtype=int64), shape=(2,))
                step = record("mul", drawn, constant(np.array([0, 1], np.int64)))
            assign(self._state, record("add", self._state, step))


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator; returns it. Takes what is a whole number, as text too, like PyTorch.

    Raises ValueError for text that is no whole number and for one that 64 bits do not hold, TypeError for
    anything else, numbers with a fraction among them, which PyTorch rounds.
    """
    try:
        value = int(seed)
        if value != seed and not isinstance(seed, str):
            raise TypeError(
                f"manual_seed expected a whole number, but got {seed!r}; give an int, for example {value}"
            )
    except (TypeError, ValueError) as error:
        annotate(error)
        raise
    return default_generator.manual_seed(value)


def seed() -> int:
    """Seeds the default generator from the operating system; returns the seed."""
    return default_generator.seed()


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, device_type: str = "cpu") -> Iterator[None]:
    """Inside of the block the default generator goes on as it would; behind it, it is as it was before."""
    if not enabled:
        yield
        return
    state, seed_before = default_generator.get_state(), default_generator._seed
    if current().trace is None:
        state.realize()  # what fails inside of the block does not take it along
    try:
        yield
    finally:
        default_generator.set_state(state)
        default_generator._seed = seed_before


def initial_seed() -> int:
    """The default generator's seed."""
    return default_generator.initial_seed()


def next_random(count: int, generator: Generator | None = None) -> tuple[Any, int]:
    """(state tensor, offset) for a random op of `count` elements; see `Generator.next`."""
    if generator is not None and not isinstance(generator, Generator):
        error = TypeError(f"argument 'generator' must be a Generator, not {type(generator).__name__}")
        annotate(error)
        raise error
    return (generator or default_generator).next(count)
