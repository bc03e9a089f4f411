"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

import math
from typing import Any

from graphc.core import TensorBase, assign, is_tracing, new_storage, record, scalar
from graphc.functions.promotion import converted
from graphc.ir.types import float64
from graphc.optim.optimizer import Numbers, Optimizer, checked_numbers, descend, zero_count, zeros_state
from graphc.optim.param_group import ParamGroup

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """p -= lr · m̂ / (sqrt(v̂) + eps) with running means m of g and v of g², corrected for their start at 0.

    Parameters whose steps have always been taken together share one step count.
    """

    repeats = True

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        checked_numbers(learning_rate=(lr, 0.0, math.inf), epsilon_value=(eps, 0.0, math.inf))
        for i, beta in enumerate(betas):
            if not isinstance(beta, TensorBase) and not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        checked_numbers(weight_decay_value=(weight_decay, 0.0, math.inf))
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def update(self, group: ParamGroup, pairs: list[tuple[Any, Any]]) -> None:
        """Records the update of one group."""
        self._create_state(group, pairs)
        shared: dict[int, _Scalars] = {}
        numbers = Numbers()
        for p, g in pairs:
            count = self.state[p]["step"]
            scalars = shared.get(id(count))
            if scalars is None:
                assign(count, record("add", count, scalar(1, count.tensor_type.dtype)))
                scalars = shared[id(count)] = _Scalars(group, count)
            self._update_one(group, p, g, scalars, numbers)

    def _create_state(self, group: ParamGroup, pairs: list[tuple[Any, Any]]) -> None:
        fresh: Any = None
        for p, _ in pairs:
            state = self.state[p]
            if not state:
                fresh = zero_count() if fresh is None else fresh
                state["step"] = fresh
                state["exp_avg"] = zeros_state(p, "exp_avg")
                state["exp_avg_sq"] = zeros_state(p, "exp_avg_sq")
                if group["amsgrad"]:
                    state["max_exp_avg_sq"] = zeros_state(p, "max_exp_avg_sq")
        self._part_counts({id(p) for p, _ in pairs}, group)

    def _part_counts(self, stepping: set[int], group: ParamGroup) -> None:
        """Gives parameters of the group that miss this step a count of their own."""
        moving = {id(self.state[p]["step"]) for p in group["params"] if id(p) in stepping}
        for p in group["params"]:
            state = self.state.get(p)
            if state and id(p) not in stepping and id(state["step"]) in moving:
                own = zero_count()
                if is_tracing():
                    assign(own, record("reshape", state["step"], shape=()))
                else:
                    own = new_storage(state["step"]._values(), "optimizer_state", "step")
                state["step"] = own

    def _loaded_state(self) -> None:
        """Parameters whose loaded counts are equal share one again."""
        for group in self.param_groups:
            counts: dict[float, Any] = {}
            for p in group["params"]:
                state = self.state.get(p)
                if state and isinstance(state.get("step"), TensorBase):
                    state["step"] = counts.setdefault(float(state["step"]), state["step"])

    def _update_one(self, group: ParamGroup, p: Any, g: Any, scalars: _Scalars, numbers: Numbers) -> None:
        state = self.state[p]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        like = numbers.like
        if group["maximize"]:
            g = record("neg", g)
        if group["weight_decay"] != 0:
            if group["decoupled_weight_decay"]:
                shrunk = record("mul", p, like(scalars.shrink(group), p))
            else:
                g = record("add", g, record("mul", p, like(scalars.decay(group), p)))
                shrunk = p
        else:
            shrunk = p
        assign(m, record("add", m, record("mul", record("sub", g, m), like(scalars.weight1, m))))
        square = record("mul", record("mul", g, g), like(scalars.weight2, v))
        assign(v, record("add", record("mul", v, like(scalars.beta2, v)), square))
        largest = v
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            assign(largest, record("maximum", largest, v))
        root = record("div", record("sqrt", largest), like(scalars.root2, v))
        denominator = record("add", root, like(scalars.eps, v))
        delta = record("div", record("mul", m, like(scalars.step_size, m)), denominator)
        if shrunk is p:
            descend(p, delta)
        else:
            assign(p, record("sub", shrunk, delta))


class _Scalars:
    """The rank-0 float64 numbers of one group at one step count."""

    __slots__ = ("_lr", "beta2", "eps", "root2", "step_size", "weight1", "weight2")

    def __init__(self, group: ParamGroup, count: Any) -> None:
        one = scalar(1, float64)
        beta1, self.beta2 = group.number("betas", 0), group.number("betas", 1)
        self.eps = group.number("eps")
        self._lr = _wide(group.number("lr"))
        steps = converted(count, float64)
        correction1 = record("sub", one, record("pow", _wide(beta1), steps))
        correction2 = record("sub", one, record("pow", _wide(self.beta2), steps))
        self.weight1 = record("sub", one, _wide(beta1))
        self.weight2 = record("sub", one, _wide(self.beta2))
        self.step_size = record("div", self._lr, correction1)
        self.root2 = record("sqrt", correction2)

    def decay(self, group: ParamGroup) -> Any:
        """The weight decay."""
        return group.number("weight_decay")

    def shrink(self, group: ParamGroup) -> Any:
        """1 - lr · weight_decay."""
        decay = record("mul", self._lr, _wide(group.number("weight_decay")))
        return record("sub", scalar(1, float64), decay)


def _wide(number: Any) -> Any:
    return converted(number, float64)


class AdamW(Adam):
    """Adam with weight decay taken from the parameter, not from the gradient."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
