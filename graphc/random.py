"""The default generator as a module: seeds, states, `fork_rng`."""

from __future__ import annotations

from graphc.core import default_generator, fork_rng, initial_seed, manual_seed, seed
from graphc.functions.random import get_rng_state, set_rng_state

__all__ = [
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]
