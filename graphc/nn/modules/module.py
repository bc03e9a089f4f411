"""`Module`: parameters, buffers and submodules in a tree, with PyTorch's registration rules.

Every change that a compiled call could have baked in raises the mutation epoch; `_snapshot` is what
such a call compares then. Walks over the tree and state dicts are mixins, in `tree.py` and `state.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from graphc.core import TensorBase, bump_epoch, enter_outermost, guard, is_tracing, no_grad, set_role
from graphc.core.recording import current
from graphc.core.tensor import LostGradient
from graphc.devices import check_device, device
from graphc.functions.creation import zeros_like
from graphc.ir.types import DType, bfloat16, float16, float32, float64
from graphc.nn.modules.backward_hooks import BackwardWatch
from graphc.nn.modules.hooks import RemovableHandle, add_hook
from graphc.nn.modules.state import IncompatibleKeys, StateDict
from graphc.nn.modules.tree import ModuleTree
from graphc.nn.parameter import Buffer, Parameter

__all__ = ["IncompatibleKeys", "Module"]

T = TypeVar("T", bound="Module")
_OWN = ("_parameters", "_buffers", "_modules")


def _typename(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"


class Module(ModuleTree, StateDict):
    """Base of neural-network modules: assign parameters, buffers and Modules as attributes, define `forward`."""

    training: bool
    _version: int = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            raise TypeError(
                f"{type(self).__name__}.__init__() got unexpected arguments {args or ''}{list(kwargs) or ''}"
            )
        set_ = object.__setattr__
        set_(self, "training", True)
        set_(self, "_parameters", {})
        set_(self, "_buffers", {})
        set_(self, "_non_persistent_buffers_set", set())
        set_(self, "_modules", {})
        for name in (
            "_forward_pre_hooks",
            "_forward_hooks",
            "_backward_pre_hooks",
            "_backward_hooks",
            "_state_dict_hooks",
            "_load_state_dict_pre_hooks",
        ):
            set_(self, name, OrderedDict())

    # -- calling ------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the Module computes; defined by subclasses."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.__dict__
        recording = current()
        if recording.trace is not None:
            self._trace_guard()
        elif recording.depth == 0:
            enter_outermost(recording, self)
        recording.depth += 1
        try:
            if (
                own["_forward_pre_hooks"]
                or own["_forward_hooks"]
                or own["_backward_hooks"]
                or own["_backward_pre_hooks"]
            ):
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        finally:
            recording.depth -= 1

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook, with_kwargs in list(self._forward_pre_hooks.values()):
            if with_kwargs:
                changed = hook(self, args, kwargs)
                if changed is not None:
                    if not (isinstance(changed, tuple) and len(changed) == 2):
                        raise RuntimeError(
                            f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {changed}."
                        )
                    args, kwargs = changed
            else:
                changed = hook(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        watch = BackwardWatch(self) if self._backward_hooks or self._backward_pre_hooks else None
        if watch is not None:
            args = watch.inputs(args)
        result = self.forward(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            changed = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            if changed is not None:
                result = changed
        return result if watch is None else watch.outputs(result)

    def _trace_guard(self) -> None:
        guard(self._snapshot)
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            memory = tensor._storage.memory
            if memory is not None and len(getattr(memory, "name", name)) < len(name):
                memory.name = name

    def _snapshot(self) -> tuple[Any, ...]:
        """What a trace through this Module bakes in: attributes, and which tensors and Modules they are."""
        own = self.__dict__
        parts: list[Any] = []
        for name, value in own.items():
            if name == "_parameters":
                parts.append(tuple((k, id(v), v is not None and v.requires_grad) for k, v in value.items()))
            elif name in _OWN:
                parts.append((name, tuple((k, id(v)) for k, v in value.items())))
            elif name.endswith("_hooks"):
                if value:
                    parts.append((name, tuple(value)))
            elif isinstance(value, TensorBase):
                parts.append((name, value.tensor_type))
            elif isinstance(value, (int, float, str, tuple, DType)) or value is None:
                parts.append((name, _hashable(value)))
            else:
                parts.append((name, id(value)))
        return tuple(parts)

    # -- attributes ----------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        for table in _OWN:
            found = own.get(table)
            if found is not None and name in found:
                return found[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            if "_parameters" not in own:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            self._forget(name, "_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            if "_modules" not in own:
                raise AttributeError("cannot assign module before Module.__init__() call")
            self._forget(name, "_modules")
            own["_modules"][name] = value
            bump_epoch()
        elif isinstance(value, Buffer) and name not in own.get("_buffers", {}):
            self._forget(name, "_buffers")
            self.register_buffer(name, value, value.persistent)
        else:
            self._set_plain(name, value)

    def _set_plain(self, name: str, value: Any) -> None:
        own = self.__dict__
        for table, kind in (
            ("_parameters", "graphc.nn.Parameter or None"),
            ("_modules", "graphc.nn.Module or None"),
            ("_buffers", "graphc.Tensor, Buffer, or None"),
        ):
            known = own.get(table)
            if known is not None and name in known:
                if value is not None and not (table == "_buffers" and isinstance(value, TensorBase)):
                    what = {"_parameters": "parameter", "_modules": "child module", "_buffers": "buffer"}[
                        table
                    ]
                    raise TypeError(
                        f"cannot assign '{_typename(value)}' as {what} '{name}' ({kind} expected)"
                    )
                if table == "_buffers" and value is not None:
                    _mark_buffer(name, value)
                known[name] = value
                break
        else:
            object.__setattr__(self, name, value)
        bump_epoch()

    def _forget(self, name: str, but: str) -> None:
        """Takes `name` out of everywhere but one table, where it keeps its place."""
        own = self.__dict__
        own.pop(name, None)
        for table in _OWN:
            if table != but:
                own[table].pop(name, None)
        own["_non_persistent_buffers_set"].discard(name)

    def __delattr__(self, name: str) -> None:
        own = self.__dict__
        for table in _OWN:
            if name in own[table]:
                del own[table][name]
                own["_non_persistent_buffers_set"].discard(name)
                break
        else:
            object.__delattr__(self, name)
        bump_epoch()

    def __dir__(self) -> list[str]:
        own = self.__dict__
        return sorted({*super().__dir__(), *(k for table in _OWN for k in own.get(table, ()))})

    def _check_name(self, name: str, what: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain "."')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter (or None) under `name`."""
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name(name, "parameter")
        if hasattr(self, name) and name not in self._parameters:
            raise KeyError(f"attribute '{name}' already exists")
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{_typename(param)}' object to parameter '{name}' (graphc.nn.Parameter or None required)"
                )
            if not param.is_leaf:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly."
                )
            memory = param._storage.memory
            if memory is not None and not getattr(memory, "name", name):
                memory.name = name
        self._parameters[name] = param
        bump_epoch()

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Adds a buffer (or None) under `name`; one that is not persistent is not in `state_dict`."""
        if "_buffers" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name(name, "buffer")
        if hasattr(self, name) and name not in self._buffers:
            raise KeyError(f"attribute '{name}' already exists")
        if tensor is not None:
            if not isinstance(tensor, TensorBase):
                raise TypeError(
                    f"cannot assign '{_typename(tensor)}' object to buffer '{name}' (graphc Tensor or None required)"
                )
            _mark_buffer(name, tensor)
        self._buffers[name] = tensor
        (self._non_persistent_buffers_set.discard if persistent else self._non_persistent_buffers_set.add)(
            name
        )
        bump_epoch()

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a child (or None) under `name`."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{_typename(module)} is not a Module subclass")
        self._check_name(name, "module")
        if hasattr(self, name) and name not in self._modules:
            raise KeyError(f"attribute '{name}' already exists")
        self._modules[name] = module
        bump_epoch()

    register_module = add_module

    # -- modes and conversions --------------------------------------------------------------------

    def train(self: T, mode: bool = True) -> T:
        """Training mode (dropout drops, batch norm uses the batch) or not, for all below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        bump_epoch()
        return self

    def eval(self: T) -> T:
        """`train(False)`."""
        return self.train(False)

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Sets `requires_grad` of all parameters."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parameters."""
        clear_gradients(self.parameters(), set_to_none)

    def apply(self: T, fn: Callable[[Module], Any]) -> T:
        """Calls `fn` on every Module below, then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def _apply(self: T, fn: Callable[[Any], Any]) -> T:
        """Replaces every parameter's and buffer's value by `fn` of it; parameters stay the same objects."""
        for module in self.modules():
            for param in module._parameters.values():
                if param is not None:
                    with no_grad():
                        _rebind(param, fn(param.detach()))
                        if param.grad is not None:
                            param.grad = fn(param.grad.detach())
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fn(buffer)
                    _mark_buffer(name, module._buffers[name])
        bump_epoch()
        return self

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """Floating parameters and buffers to a dtype; the device is the CPU."""
        dtype: Any = kwargs.pop("dtype", None)
        check_device(kwargs.pop("device", None))
        for a in args:
            if isinstance(a, DType):
                dtype = a
            elif isinstance(a, TensorBase):
                dtype = a.dtype
            elif isinstance(a, (str, device)):
                check_device(a)
        if dtype is None:
            return self
        if not dtype.is_floating_point:
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def float(self: T) -> T:
        """Floating parameters and buffers to float32."""
        return self.to(float32)

    def double(self: T) -> T:
        """Floating parameters and buffers to float64."""
        return self.to(float64)

    def half(self: T) -> T:
        """Floating parameters and buffers to float16."""
        return self.to(float16)

    def bfloat16(self: T) -> T:
        """Floating parameters and buffers to bfloat16."""
        return self.to(bfloat16)

    def cpu(self: T) -> T:
        """Itself."""
        return self

    def cuda(self: T, device: Any = None) -> T:
        """Raises RuntimeError: graphc computes on the CPU only."""
        return self.to("cuda" if device is None else device)

    # -- hooks ------------------------------------------------------------------------------------

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, args)` before `forward`; what it returns replaces the arguments."""
        return add_hook(self._forward_pre_hooks, (hook, with_kwargs), prepend)  # type: ignore[arg-type]

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Calls `hook(module, args, output)` after `forward`; what it returns replaces the output."""
        return add_hook(self._forward_hooks, (hook, with_kwargs), prepend)  # type: ignore[arg-type]

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Calls `hook(module, grad_input, grad_output)` when gradients of the inputs have been computed.

        Both are tuples, of the positional arguments and of the results, with None where there is no
        gradient; what the hook returns replaces `grad_input`.
        """
        return add_hook(self._backward_hooks, hook, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, grad_output)` before gradients of the inputs; what it returns replaces `grad_output`."""
        return add_hook(self._backward_pre_hooks, hook, prepend)

    # -- text ----------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands in the parentheses of `repr`."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indented(repr(child))}" for name, child in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"


def _indented(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line for line in rest)])


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    # 1, 1.0 and True are equal but not the same attribute.
    return (type(value), value)


def _mark_buffer(name: str, tensor: Any) -> None:
    if not is_tracing():
        set_role(tensor, "buffer", name)


def _rebind(param: Any, value: Any) -> None:
    """Makes `param` another handle on `value`'s storage, keeping its identity and role."""
    if value.tensor_type == param.tensor_type:
        return
    fresh = value.detach().clone()
    set_role(fresh, "parameter", getattr(param._storage.memory, "name", ""))
    required = param.requires_grad
    param._stored, param._type, param._chain, param._cache = fresh._storage, fresh.tensor_type, (), None
    param._record = param._owner = None
    if required:
        param._leaf = False
        param._grad = None
        param.requires_grad_(True)


def clear_gradients(parameters: Any, set_to_none: bool) -> None:
    """Clears `.grad` of parameters: None, or zeros in the same memory.

    While tracing, None is assigned even where there is no gradient, so that the trace sees it.
    """
    trace = current().trace
    for p in parameters:
        if set_to_none:
            if trace is not None or p._grad is not None:
                p.grad = None
            continue
        if trace is not None:
            trace.look(p, "zeroed")
        if type(p._grad) is LostGradient:
            p.grad = zeros_like(p, requires_grad=False)
        elif p._grad is not None:
            gradient = p._grad
            if gradient.requires_grad:
                p.grad = gradient = gradient.detach()
            gradient.zero_()
