"""`Optimizer`: parameter groups, per-parameter state, steps recorded as graph operations.

State tensors are created at the first step of a parameter as storages of their own, also while
tracing, so that they are program state. A step records its arithmetic in PyTorch's order.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.core import (
    Sections,
    TensorBase,
    assign,
    bump_epoch,
    enable_grad,
    guard,
    is_tracing,
    mark_cut,
    new_storage,
    no_grad,
    record,
    unrecorded,
)
from graphc.functions.promotion import converted, expanded
from graphc.nn.modules.hooks import RemovableHandle, add_hook
from graphc.nn.modules.module import clear_gradients
from graphc.optim.param_group import ParamGroup

__all__ = ["Optimizer"]


class Optimizer:
    """Base of optimisers: holds `param_groups`, `state` and `defaults`; subclasses define `update`.

    `repeats` says that what `update` records depends only on the group's options, on which parameters
    step, and on which state tensors there are; it is then recorded once. A class that defines `update`
    says so itself.
    """

    repeats = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "update" in cls.__dict__ and "repeats" not in cls.__dict__:
            cls.repeats = False

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[ParamGroup] = []
        self._sections = Sections()
        self._step_pre_hooks: OrderedDict[int, Any] = OrderedDict()
        self._step_post_hooks: OrderedDict[int, Any] = OrderedDict()
        if isinstance(params, TensorBase):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                + type(params).__name__
            )
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    # -- groups -----------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters with options of its own. Raises ValueError for what is optimised already."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in "
                "sets will change between runs. Please use a list instead."
            )
        items = [given] if isinstance(given, TensorBase) else list(given)
        # Named parameters come as (name, parameter) pairs.
        names = [p[0] for p in items if isinstance(p, tuple)]
        params = [p[1] if isinstance(p, tuple) else p for p in items]
        for p in params:
            if not isinstance(p, TensorBase):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is " + type(p).__name__
                )
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        taken = {id(p) for g in self.param_groups for p in g["params"]}
        if any(id(p) in taken for p in params) or len({id(p) for p in params}) != len(params):
            raise ValueError("some parameters appear in more than one parameter group")
        group = ParamGroup({"params": params, **({"param_names": names} if names else {})})
        options = {k: v for k, v in param_group.items() if k != "params"}
        for name, default in {**self.defaults, **options}.items():
            group[name] = options.get(name, default)
        self.param_groups.append(group)
        bump_epoch()

    # -- steps ------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parameters: None, or zeros in the same memory."""
        clear_gradients((p for g in self.param_groups for p in g["params"]), set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what `closure` returns."""
        for hook in list(self._step_pre_hooks.values()):
            hook(self, (closure,), {})
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with unrecorded() if self.repeats else no_grad():
            for group in self.param_groups:
                pairs = [(p, g) for p in group["params"] if (g := p.grad) is not None]
                if pairs:
                    self._update(group, pairs)
        if is_tracing():
            # After the update, which may have created state.
            guard(self._snapshot)
        for hook in list(self._step_post_hooks.values()):
            hook(self, (closure,), {})
        mark_cut()
        return loss

    def _update(self, group: ParamGroup, pairs: list[tuple[Any, Any]]) -> None:
        """Records the update; one that was recorded before, as one entry."""
        if not self.repeats or is_tracing():
            self.update(group, pairs)
            return
        params, states = group["params"], self.state
        stepping = [p for p, _ in pairs]

        def state() -> list[Any]:
            return [v for p in params if p in states for v in states[p].values()]

        def tensors() -> list[Any]:
            found = [*stepping, *(g for _, g in pairs)]
            found += dict.fromkeys([v for v in state() if isinstance(v, TensorBase)])
            return found + group.tensors()

        self._sections.run(
            lambda: (id(group), group.version, *map(id, stepping), *map(id, params), *map(id, state())),
            tensors,
            lambda: self.update(group, pairs),
            lambda: (group, list(params), state()),
        )

    def update(self, group: ParamGroup, pairs: list[tuple[Any, Any]]) -> None:
        """Records the update of (parameter, gradient) pairs of one group."""
        raise NotImplementedError

    def _snapshot(self) -> tuple[Any, ...]:
        """What a traced step bakes in: the structure of groups, and which states exist."""
        return tuple(g.snapshot() for g in self.param_groups), tuple(
            (id(p), tuple(id(v) for v in s.values())) for p, s in self.state.items()
        )

    # -- hooks ------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, args, kwargs)` before each step."""
        return add_hook(self._step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, args, kwargs)` after each step."""
        return add_hook(self._step_post_hooks, hook)

    # -- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """`{"state": by parameter number, "param_groups": options with parameter numbers}`."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers.setdefault(id(p), len(numbers))
            packed = {k: v for k, v in group.items() if k != "params"}
            groups.append({**packed, "params": [numbers[id(p)] for p in group["params"]]})
        return {"state": {numbers[id(p)]: dict(s) for p, s in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over options and state. Raises ValueError where groups do not match."""
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(self.param_groups, saved, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        owners: dict[Any, Any] = {}
        for group, loaded in zip(self.param_groups, saved, strict=True):
            owners.update(zip(loaded["params"], group["params"], strict=True))
            for key, value in loaded.items():
                if key != "params":
                    group[key] = (
                        tuple(value) if isinstance(value, list) and key == "betas" else copy.copy(value)
                    )
        self.state.clear()
        for number, entries in state_dict["state"].items():
            param = owners.get(number)
            if param is not None:
                self.state[param] = {k: _loaded(k, v, param) for k, v in entries.items()}
        self._loaded_state()
        bump_epoch()

    def _loaded_state(self) -> None:
        """Called after `load_state_dict`, for subclasses."""

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._step_pre_hooks, self._step_post_hooks = OrderedDict(), OrderedDict()
        self._sections = Sections()

    def __repr__(self) -> str:
        text = type(self).__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            text += "".join(f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params")
        return text + ")"


def _loaded(key: str, value: Any, param: Any) -> Any:
    if not isinstance(value, TensorBase):
        return value
    values = value._values()
    if key != "step" and value.tensor_type.dtype.is_floating_point:
        values = values.astype(param.tensor_type.dtype.numpy)
    return new_storage(values, "optimizer_state", key if key == "step" else _state_name(param, key))


def _state_name(param: Any, name: str) -> str:
    memory = param._storage.memory
    return f"{memory.name}.{name}" if memory is not None and memory.name else name


# -- what optimisers record ---------------------------------------------------------------------------


def zeros_state(param: Any, name: str) -> Any:
    """A state tensor like `param`, zero; it is named after the parameter where that has a name."""
    zeros = np.broadcast_to(np.zeros((), param.tensor_type.dtype.numpy), param.tensor_type.shape)
    return new_storage(zeros, "optimizer_state", _state_name(param, name))


def zero_count(name: str = "step") -> Any:
    """A rank-0 float32 state tensor, zero: the number of steps, as PyTorch keeps it."""
    return new_storage(np.zeros((), np.float32), "optimizer_state", name)


class Numbers:
    """Rank-0 numbers of one group during one step, converted and expanded on first use per type."""

    __slots__ = ("_converted", "_expanded")

    def __init__(self) -> None:
        self._converted: dict[tuple[int, Any], Any] = {}
        self._expanded: dict[tuple[int, Any], Any] = {}

    def like(self, number: Any, x: Any) -> Any:
        """A rank-0 tensor in the dtype and shape of `x`."""
        t = x.tensor_type
        key = (id(number), t)
        found = self._expanded.get(key)
        if found is None:
            narrow = self._converted.get((id(number), t.dtype))
            if narrow is None:
                # The entry keeps `number` alive, so that its id stays its own.
                narrow = self._converted[id(number), t.dtype] = (converted(number, t.dtype), number)
            found = self._expanded[key] = expanded(narrow[0], t.shape)
        return found


def descend(param: Any, delta: Any) -> None:
    """Writes param - delta into the parameter."""
    assign(param, record("sub", param, delta))


def checked_numbers(**limits: tuple[Any, float, float]) -> None:
    """Raises ValueError for a number outside of [low, high): name=(value, low, high)."""
    for name, (value, low, high) in limits.items():
        if not isinstance(value, TensorBase) and not low <= value < high:
            raise ValueError(f"Invalid {name.replace('_', ' ')}: {value}")
