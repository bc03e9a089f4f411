"""Every op of the registry: gradient, double backward and forward derivative in float64, and many instances at once.

`python -m tests.ir.derivatives` prints how many ops that is, and which are exempt and why.
"""

from __future__ import annotations

import pytest

from graphc.ir.families import REGISTRY
from tests.ir.derivatives import CHECKS, check_op, exemptions


@pytest.mark.parametrize(
    ("what", "name"), [(what, name) for what, (_, names) in CHECKS.items() for name in names]
)
def test_op(what: str, name: str) -> None:
    check_op(what, name)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_checked_or_exempt(name: str) -> None:
    """An op is in every list of what is checked, or its class says why not; an op with a VJP is not exempt."""
    cls = REGISTRY[name]
    assert cls.differentiable == (name in CHECKS["double backward"][1])
    if not cls.differentiable:
        assert len(exemptions()[name].split()) >= 3
        assert "vjp" not in cls.__dict__, f"{name} has a VJP that nothing checks"
    assert set(cls.no_gradient) <= set(cls.operand_names)
