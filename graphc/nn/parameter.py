"""`Parameter`: a tensor that a Module registers and an optimiser updates; `Buffer`: one it does not."""

from __future__ import annotations

import copy
from typing import Any

from graphc.core import TensorBase, register_parameter, set_role
from graphc.formatting import tensor_text
from graphc.functions.creation import empty
from graphc.functions.recording import from_array
from graphc.tensor_class import Tensor

__all__ = ["Buffer", "Parameter"]


class Parameter(Tensor):
    """A leaf tensor that is a Module's parameter. Shares the memory of `data`."""

    __slots__ = ()
    __module__ = "graphc.nn"

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Any:
        if data is None:
            data = empty(0)
        if not isinstance(data, TensorBase):
            raise TypeError(f"Parameter expects a Tensor, got {type(data).__name__}")
        if requires_grad and not data.dtype.is_floating_point:
            raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
        # A part of another tensor, or a value on the tape, is copied: a leaf is the whole of its storage.
        whole = not data._chain and data.is_leaf
        source: Any = data.detach() if whole else data.detach().clone()
        set_role(source, "parameter")
        result = cls._tensor_class._new(source._storage, source.tensor_type)
        result.__class__ = cls
        return result.requires_grad_(True) if requires_grad else result

    def __repr__(self) -> str:
        return "Parameter containing:\n" + tensor_text(self)

    __str__ = __repr__
    __hash__ = Tensor.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        result = type(self)(from_array(self._values(), share=False), self.requires_grad)
        memo[id(self)] = result
        for key, value in self.__dict__.items():
            result.__dict__[key] = copy.deepcopy(value, memo)
        return result


class Buffer(Tensor):
    """A tensor that a Module registers as a buffer when it is assigned as an attribute."""

    persistent: bool

    __slots__ = ()
    __module__ = "graphc.nn"

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Any:
        source: Any = (empty(0) if data is None else data).detach()
        result = cls._tensor_class._new(source._storage, source.tensor_type, source._chain)
        result.__class__ = cls
        result.persistent = persistent
        return result


register_parameter(Parameter)
