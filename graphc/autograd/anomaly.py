"""Anomaly mode as PyTorch spells it."""

from __future__ import annotations

from graphc.core import anomaly

__all__ = ["detect_anomaly", "is_anomaly_enabled", "set_detect_anomaly"]


def is_anomaly_enabled() -> bool:
    """True while backward passes are looked at for NaN."""
    return anomaly.enabled


class set_detect_anomaly:
    """Turns anomaly mode on or off at once; as a context manager it puts the old mode back.

    While it is on, a `backward` or `grad` that makes NaN raises RuntimeError naming the line of the forward
    pass; it runs the backward pass once more in NumPy for that. A compiled function that calls `backward` or
    `grad` has another program while the mode is on, which checks each step of the way back whenever it runs.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = (anomaly.enabled, anomaly.checks_nan or not anomaly.enabled)
        anomaly.set(bool(mode), check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        anomaly.set(*self._before)


class detect_anomaly:
    """Anomaly mode inside a `with` block; see `set_detect_anomaly`."""

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan

    def __enter__(self) -> None:
        self._setting = set_detect_anomaly(True, self.check_nan)

    def __exit__(self, *error: object) -> None:
        self._setting.__exit__(*error)
