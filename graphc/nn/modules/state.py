"""State dicts of Modules: parameters and persistent buffers by dotted name, out and in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from graphc.core import TensorBase, assign, bump_epoch, no_grad
from graphc.nn.parameter import Parameter

__all__ = ["IncompatibleKeys", "StateDict"]


class _Keys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class IncompatibleKeys(_Keys):
    """What `load_state_dict` did not find, and found without a place for it."""

    __slots__ = ()

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"

    __str__ = __repr__


class StateDict:
    """What a Module keeps of itself, as a mixin."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _non_persistent_buffers_set: set[str]
    named_modules: Callable[..., Any]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, param in self._parameters.items():
            if param is not None:
                destination[prefix + name] = param if keep_vars else param.detach()
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = buffer if keep_vars else buffer.detach()

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted name; they share memory with the Module's."""
        result = OrderedDict() if destination is None else destination
        self._save_to_state_dict(result, prefix, keep_vars)
        for name, child in self._modules.items():
            if child is not None:
                child.state_dict(destination=result, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return result

    def _own_state(self) -> dict[str, Any]:
        kept = {k: v for k, v in self._buffers.items() if k not in self._non_persistent_buffers_set}
        return {k: v for k, v in (self._parameters | kept).items() if v is not None}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies values in by name (with `assign`, takes the tensors themselves).

        Raises RuntimeError that lists unexpected and missing keys (if `strict`) and wrong shapes.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        targets = {
            f"{path}.{name}" if path else name: (module, name, value)
            for path, module in self.named_modules(remove_duplicate=False)
            for name, value in module._own_state().items()
        }
        missing = [k for k in targets if k not in state_dict]
        unexpected = [k for k in state_dict if k not in targets]
        problems = []
        if strict and unexpected:
            problems.append(
                "Unexpected key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in unexpected))
            )
        if strict and missing:
            problems.append("Missing key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in missing)))
        for key, (module, name, value) in targets.items():
            if key in state_dict:
                problem = _load_one(module, name, value, key, state_dict[key], assign)
                if problem:
                    problems.append(problem)
        if problems:
            raise RuntimeError(
                "Error(s) in loading state_dict for {}:\n\t{}".format(
                    type(self).__name__, "\n\t".join(problems)
                )
            )
        return IncompatibleKeys(missing, unexpected)


def _load_one(module: StateDict, name: str, value: Any, key: str, source: Any, assign_: bool) -> str | None:
    """Loads one tensor; returns what is wrong with it, if anything."""
    if not isinstance(source, TensorBase):
        return (
            f'While copying the parameter named "{key}", expected graphc.Tensor or Tensor-like object from '
            f"checkpoint but received {type(source)}"
        )
    if source.tensor_type.shape != value.tensor_type.shape:
        return (
            f"size mismatch for {key}: copying a param with shape {source.shape} from checkpoint, the shape in "
            f"current model is {value.shape}."
        )
    if assign_:
        if name in module._parameters:
            module._parameters[name] = (
                source if isinstance(source, Parameter) else Parameter(source, value.requires_grad)
            )
        else:
            module._buffers[name] = source
        bump_epoch()
        return None
    with no_grad():
        copied: Any = source.detach()
        assign(
            value,
            copied.to(value.dtype) if source.tensor_type.dtype is not value.tensor_type.dtype else copied,
        )
    return None
