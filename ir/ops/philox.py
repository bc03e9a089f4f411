"""Philox4x32-10: the counter-based generator behind every random op, as a scalar body and in NumPy.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The counter is
(n, 0) as four 32-bit words, low first, with n = base + offset + i for element i; the key is the
seed's low and high word. One call gives four words, of which an op uses as many as it needs, so an
element depends on (seed, base + offset, i) only and neighbouring lanes differ in the counter only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir.scalar import Term
from graphc.ir.types import int32

__all__ = ["philox", "philox_reference"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def philox(seed: Term, counter: Term) -> list[Term]:
    """Four int32 words for an int64 seed and an int64 counter."""
    s = counter.s

    def low(x: Term) -> Term:
        return Term(s, s.cast(x.value, int32))

    c = [low(counter), low(counter >> 32), low(counter).like(0), low(counter).like(0)]
    key = [low(seed), low(seed >> 32)]
    for number in range(ROUNDS):
        # A product with the zero words of the first counter is known to be zero.
        first = [c[0] * _signed(MULTIPLIERS[0]), c[0].mulhi(_signed(MULTIPLIERS[0]))]
        second = (
            [c[2], c[2]]
            if number == 0
            else [c[2] * _signed(MULTIPLIERS[1]), c[2].mulhi(_signed(MULTIPLIERS[1]))]
        )
        c = [second[1] ^ c[1] ^ key[0], second[0], first[1] ^ c[3] ^ key[1], first[0]]
        key = [k + _signed(w) for k, w in zip(key, WEYL, strict=True)]
    return c


def philox_reference(seed: int, start: int, count: int) -> Any:
    """Words as uint32 [4, count] for counters start … start + count - 1."""
    mask = np.uint64(0xFFFFFFFF)
    n = (np.arange(count, dtype=np.int64) + np.int64(start)).view(np.uint64)
    c = [n & mask, n >> np.uint64(32), np.zeros_like(n), np.zeros_like(n)]
    key = [int(seed) & 0xFFFFFFFF, (int(seed) >> 32) & 0xFFFFFFFF]
    for _ in range(ROUNDS):
        a, d = c[0] * np.uint64(MULTIPLIERS[0]), c[2] * np.uint64(MULTIPLIERS[1])
        k0, k1 = (np.uint64(k) for k in key)
        c = [(d >> np.uint64(32)) ^ c[1] ^ k0, d & mask, (a >> np.uint64(32)) ^ c[3] ^ k1, a & mask]
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, WEYL, strict=True)]
    return np.stack(c).astype(np.uint32)
