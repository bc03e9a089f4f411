"""What a compiled program runs on: instruction set, vector shape and cache sizes.

A `Target` is plain data. Detecting the machine at hand is the backend's work; everything that
shapes a schedule or a kernel's bits reads this record and nothing else, so that a program
compiled for a named target is the same wherever it was compiled.
"""

from __future__ import annotations

from graphc.ir.records import dataclass

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """An instruction set and the sizes that schedules depend on (bytes)."""

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    has_fma: bool
    has_masks: bool
    """True where masked loads and stores are single instructions."""
    has_f16: bool
    """True where float16 <-> float32 conversions are instructions."""
    has_rounding: bool
    """True where floor and round-to-even are instructions."""
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    l3_bytes: int = 16 * 1024 * 1024
    cores: int = 8
    """How many threads work is divided for; a division changes no result."""

    def width(self, bits: int) -> int:
        """Lanes of `bits`-bit elements in one vector register."""
        return max(1, self.vector_bytes * 8 // bits)


_V3 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
_V4 = _V3 + ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("x86-64", "x86_64-unknown-linux-gnu", "x86-64", "+sse2", 16, 16, False, False, False, False),
        Target("x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3", _V3, 32, 16, True, True, True, True),
        Target("x86-64-v4", "x86_64-unknown-linux-gnu", "x86-64-v4", _V4, 64, 32, True, True, True, True),
        Target("aarch64", "aarch64-unknown-linux-gnu", "generic", "+neon", 16, 32, True, False, True, True),
    )
}
"""Named targets; `host` is detected by `graphc.backends.llvm`."""
