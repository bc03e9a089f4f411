"""Stochastic gradient descent with momentum, Nesterov momentum and weight decay."""

from __future__ import annotations

import math
from typing import Any

from graphc.core import assign, record, scalar
from graphc.functions import pointwise
from graphc.ir.types import float64
from graphc.optim.optimizer import Numbers, Optimizer, checked_numbers, descend, zero_count, zeros_state
from graphc.optim.param_group import ParamGroup

__all__ = ["SGD"]


class SGD(Optimizer):
    """v = momentum · v + (1 - dampening) · g; p -= lr · v (Sutskever et al. 2013, as PyTorch writes it)."""

    repeats = True

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        checked_numbers(
            learning_rate=(lr, 0.0, math.inf),
            momentum_value=(momentum, 0.0, math.inf),
            weight_decay_value=(weight_decay, 0.0, math.inf),
        )
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def update(self, group: ParamGroup, pairs: list[tuple[Any, Any]]) -> None:
        """Records the update of one group."""
        numbers = Numbers()
        lr = group.number("lr")
        decay = group.number("weight_decay") if group["weight_decay"] != 0 else None
        momentum = group.number("momentum") if group["momentum"] != 0 else None
        for p, g in pairs:
            if group["maximize"]:
                g = record("neg", g)
            if decay is not None:
                g = record("add", g, record("mul", p, numbers.like(decay, p)))
            if momentum is not None:
                v = self._velocity(group, p, g, momentum, numbers)
                g = record("add", g, record("mul", v, numbers.like(momentum, g))) if group["nesterov"] else v
            descend(p, record("mul", g, numbers.like(lr, g)))

    def _velocity(self, group: ParamGroup, p: Any, g: Any, momentum: Any, numbers: Numbers) -> Any:
        """The new momentum buffer. It starts at the first gradient, undamped."""
        state = self.state[p]
        buffer = state.get("momentum_buffer")
        started = buffer is not None
        if buffer is None:
            buffer = state["momentum_buffer"] = zeros_state(p, "momentum_buffer")
        if group["dampening"] != 0:
            # A loaded buffer without a count of its own has started.
            if "step" not in state:
                state["step"] = zero_count()
                if started:
                    state["step"].fill_(1)
            first = pointwise.eq(state["step"], 0)
            kept = record("sub", scalar(1, float64), group.number("dampening"))
            factor = record("where", first, scalar(1, float64), kept)
            g = record("mul", g, Numbers().like(factor, g))
            state["step"].fill_(1)
        v = record("add", record("mul", buffer, numbers.like(momentum, buffer)), g)
        assign(buffer, v)
        return buffer
