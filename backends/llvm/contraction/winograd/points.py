"""Which points of data and which taps each of a tile's 2×2 outputs sums, where only every other point is there.

Along an axis a tile meets two points, at 2b + z and 2b + z + 2 for parity z. One output meets both of them, the other one
only the point in the middle. In the order (other, middle), (middle, middle), (middle, other), (other, other) of points along
both axes, those of each output are neighbours: its sum is one product with as many times the channels.
"""

from __future__ import annotations

from graphc.backends.llvm.contraction.winograd.pattern import TAPS, Windows

__all__ = ["point_order", "points_of_sums"]


def point_order(windows: Windows) -> list[tuple[int, int]]:
    """The points that a tile meets, as numbers along both axes."""
    assert windows.parity is not None
    (i, j), (k, m) = ((1 - z, z) for z in windows.parity)
    return [(j, k), (i, k), (i, m), (j, m)]


def points_of_sums(windows: Windows) -> list[list[tuple[int, tuple[int, int]]]]:
    """Of outputs (0, 0), (0, 1), (1, 0) and (1, 1): the points' numbers in that order, and the tap that each is met with."""
    assert windows.parity is not None
    found = []
    for output in ((0, 0), (0, 1), (1, 0), (1, 1)):
        met = []
        for number, point in enumerate(point_order(windows)):
            r, s = (2 * n + z - o for n, z, o in zip(point, windows.parity, output, strict=True))
            if 0 <= r < TAPS and 0 <= s < TAPS:
                met.append((number, (r, s)))
        found.append(met)
    return found
