"""`Tensor`: the core's handle with PyTorch's methods and operators.

Methods are the functions of `graphc.functions` themselves (see `graphc.tensor_methods`); the
operators follow from the same functions.
"""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc import tensor_methods as methods
from graphc.core import (
    TensorBase,
    backward,
    current,
    hook_in_region,
    hook_value,
    no_grad,
    register_tensor,
    set_role,
    symbolic,
)
from graphc.devices import cpu, device
from graphc.formatting import tensor_text
from graphc.functions import (
    conversion,
    creation,
    indexing,
    inplace,
    linear_algebra,
    pointwise,
    reduction,
    shape,
    strides,
)
from graphc.functions.axes import one_axis
from graphc.functions.promotion import get_default_dtype, is_number
from graphc.functions.recording import from_array
from graphc.hooks import RemovableHandle, add_hook
from graphc.ir.dims import Expr, product
from graphc.ir.types import DType

__all__ = ["Tensor"]


class _GradFn:
    """Stands for the recorded operations behind a tensor that requires grad."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        """The operation's name."""
        return self._name

    def __repr__(self) -> str:
        return f"<{self._name}>"


_OPERANDS = (TensorBase, int, float, np.ndarray, Expr)


def _operator(function: Any) -> Any:
    """A binary operator: NotImplemented for operands that are neither tensors, numbers nor arrays."""

    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS) or is_number(other):
            return function(self, other)
        return NotImplemented

    operator.__name__ = function.__name__
    return operator


def _reflected(function: Any) -> Any:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS) or is_number(other):
            return function(other, self)
        return NotImplemented

    operator.__name__ = function.__name__
    return operator


def _assigned(function: Any) -> Any:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS) or is_number(other):
            return inplace.write(self, function(self, other))
        return NotImplemented

    operator.__name__ = function.__name__
    return operator


class Tensor(
    TensorBase,
    methods.ConversionMethods,
    methods.FillMethods,
    methods.InPlaceMethods,
    methods.InPlaceViewMethods,
    methods.IndexMethods,
    methods.PointwiseMethods,
    methods.ProductMethods,
    methods.RandomMethods,
    methods.ReductionMethods,
    methods.ShapeMethods,
):
    """A multi-dimensional array of one dtype whose operations are recorded and compiled."""

    __slots__ = ()
    __array_priority__ = 1000
    __module__ = "graphc"

    def __new__(cls, *data: Any, dtype: DType | None = None) -> Any:
        """`Tensor(data)` or `Tensor(*sizes)`, of the default dtype."""
        if len(data) == 1 and not isinstance(data[0], int):
            return creation.tensor(data[0], dtype=dtype or get_default_dtype())
        return creation.empty(*data, dtype=dtype) if data else creation.empty(0, dtype=dtype)

    # -- facts ----------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.tensor_type.shape)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.tensor_type.shape)

    ndimension = dim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one size."""
        if dim is None:
            return self.shape
        shape = self.tensor_type.shape
        return symbolic(shape[one_axis(dim, len(shape))])

    def numel(self) -> int:
        """Number of elements."""
        type_ = self.tensor_type
        if type_.is_static:
            return type_.numel
        return symbolic(product(type_.shape))  # type: ignore[no-any-return]

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.tensor_type.dtype.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.tensor_type.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.tensor_type.nbytes

    @property
    def device(self) -> device:
        """The CPU."""
        return cpu

    @property
    def is_cuda(self) -> bool:
        """False."""
        return False

    @property
    def layout(self) -> str:
        """Always strided."""
        return "graphc.strided"

    def is_floating_point(self) -> bool:
        """True of floating dtypes."""
        return self.tensor_type.dtype.is_floating_point

    def is_complex(self) -> bool:
        """False: there are no complex dtypes."""
        return False

    def is_signed(self) -> bool:
        """True of signed dtypes."""
        return self.tensor_type.dtype.is_signed

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """True where elements lie in row-major order without gaps."""
        return strides.is_contiguous(self)

    def data_ptr(self) -> int:
        """Address of the first element. Evaluates.

        Whoever knows it may write there unseen, so compiled functions keep nothing made from these bytes any more.
        """
        self.realize()
        memory = self._storage.memory
        if memory is not None:
            memory.point()
        return int(self.detach().numpy(force=True).ctypes.data)

    @property
    def grad_fn(self) -> Any:
        """An object that names the last operation behind a non-leaf, else None."""
        if not self.requires_grad or self.is_leaf:
            return None
        entry = self._storage.node.entry
        kind = getattr(getattr(entry, "kind", None), "__name__", "") if entry is not None else ""
        return _GradFn(f"{kind}Backward0")

    @property
    def T(self) -> Any:
        """Dimensions in reverse order."""
        return shape.permute(self, tuple(reversed(range(len(self.tensor_type.shape)))))

    @property
    def mT(self) -> Any:
        """The last two dimensions exchanged."""
        if len(self.tensor_type.shape) < 2:
            raise RuntimeError(
                f"tensor.mT is only supported on matrices or batches of matrices. Got {len(self.tensor_type.shape)}-D tensor."
            )
        return shape.transpose(self, -2, -1)

    H = mT

    @property
    def data(self) -> Any:
        """The same memory off the tape. Assigning writes the elements."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        with no_grad():
            if value.tensor_type == self.tensor_type:
                inplace.copy_(self, value)
                return
            # Another shape or dtype: this handle moves to the other storage.
            fresh = value.detach().clone()
            self._stored, self._type, self._chain, self._cache = (
                fresh._stored,
                fresh._type,
                fresh._chain,
                None,
            )
            self._record = self._owner = None

    # -- autograd -------------------------------------------------------------------------

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Adds the gradients of this tensor to `.grad` of the leaves (or of `inputs` only).

        Raises RuntimeError for a non-scalar without `gradient`, for a tensor that does not require
        grad, and for a tape that was freed.
        """
        if inputs is not None:
            inputs = [inputs] if isinstance(inputs, TensorBase) else list(inputs)
            if not inputs:
                raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
        backward([self], [gradient], retain_graph, create_graph, inputs)

    def register_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Calls `hook(gradient)` whenever this tensor's gradient is computed; what it returns replaces it.

        Raises RuntimeError for a tensor that does not require grad, and for a computed one whose value
        has been read already.
        """
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if current().region is not None and not self._leaf:
            return add_hook(hook_in_region(self, hook), hook)
        if not self.is_leaf:
            return add_hook(hook_value(self), hook)
        if getattr(self, "_hooks", None) is None:
            self._hooks = OrderedDict()
        return add_hook(self._hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Calls `hook(tensor)` at the end of each `backward` that has added to this leaf's `.grad`.

        Raises RuntimeError for a tensor that is no leaf or does not require grad.
        """
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if not self.is_leaf:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        return add_hook(self.__dict__.setdefault("_hooks_behind", OrderedDict()), hook)

    def retain_grad(self) -> None:
        """Keeps the gradient of a computed tensor in `.grad`; nothing for a leaf."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self.is_leaf or self.retains_grad:
            return
        self._hooks = OrderedDict()  # says that gradients are retained
        reference = weakref.ref(self)

        def keep(gradient: Any) -> None:
            tensor = reference()
            if tensor is not None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient

        self.register_hook(keep)

    @property
    def retains_grad(self) -> bool:
        """True of a computed tensor after `retain_grad`."""
        return not self.is_leaf and getattr(self, "_hooks", None) is not None

    def detach_(self) -> Any:
        """Takes this tensor off the tape in place."""
        self._detached = True
        self._leaf = False
        self._cache = self._record = None
        return self

    # -- Python protocols --------------------------------------------------------------------

    def __repr__(self) -> str:
        return tensor_text(self)

    def __str__(self) -> str:
        return tensor_text(self)

    def __format__(self, spec: str) -> str:
        if not self.tensor_type.shape and spec:
            return format(self.item(), spec)
        return object.__format__(self, spec) if spec else str(self if self.tensor_type.shape else self.item())

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        if not self.tensor_type.shape:
            raise TypeError("len() of a 0-d tensor")
        return symbolic(self.tensor_type.shape[0])  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        if not self.tensor_type.shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter(shape.unbind(self, 0))

    def __bool__(self) -> bool:
        count = self.numel()
        if count != 1:
            raise RuntimeError(
                "Boolean value of Tensor with "
                + ("no values" if count == 0 else "more than one value")
                + " is ambiguous"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self._only())

    def __int__(self) -> int:
        return int(self._only())

    def __complex__(self) -> complex:
        return complex(self._only())

    def _only(self) -> Any:
        if self.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self.item()

    def __index__(self) -> int:
        if self.tensor_type.dtype.is_floating_point or self.numel() != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __contains__(self, element: Any) -> bool:
        if isinstance(element, TensorBase) or is_number(element):
            return bool(reduction.any(pointwise.eq(self, element)).item())
        raise RuntimeError(
            f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}."
        )

    def __reversed__(self) -> Any:
        return shape.flip(self, 0) if self.tensor_type.shape else self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment."
            )
        result = self._copied()
        memo[id(self)] = result
        for key, value in self.__dict__.items():
            result.__dict__[key] = copy.deepcopy(value, memo)
        if self.grad is not None:
            result.grad = copy.deepcopy(self.grad, memo)
        return result

    def _copied(self) -> Any:
        """A leaf of the same class, values, role and `requires_grad` on storage of its own."""
        fresh: Any = from_array(np.array(self._values()), share=True)
        memory = self._storage.memory
        if memory is not None and getattr(memory, "role", "") not in ("", "argument", "buffer"):
            set_role(fresh, memory.role, getattr(memory, "name", ""))
        fresh.__class__ = type(self)
        return fresh.requires_grad_(True) if self.requires_grad else fresh

    def __copy__(self) -> Any:
        result = self.detach()
        result.__class__ = type(self)
        return result.requires_grad_(True) if self._leaf else result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (_rebuilt, (np.array(self._values()), self.requires_grad and self.is_leaf))

    __array__ = conversion.to_array
    __dlpack__ = conversion.to_dlpack
    __dlpack_device__ = conversion.dlpack_device

    # -- operators ------------------------------------------------------------------------------

    __getitem__ = indexing.getitem
    __setitem__ = indexing.setitem
    __add__ = _operator(pointwise.add)
    __radd__ = _reflected(pointwise.add)
    __iadd__ = _assigned(pointwise.add)
    __sub__ = _operator(pointwise.sub)
    __rsub__ = _reflected(pointwise.sub)
    __isub__ = _assigned(pointwise.sub)
    __mul__ = _operator(pointwise.mul)
    __rmul__ = _reflected(pointwise.mul)
    __imul__ = _assigned(pointwise.mul)
    __truediv__ = _operator(pointwise.div)
    __rtruediv__ = _reflected(pointwise.div)
    __itruediv__ = _assigned(pointwise.div)
    __floordiv__ = _operator(pointwise.floor_divide)
    __rfloordiv__ = _reflected(pointwise.floor_divide)
    __ifloordiv__ = _assigned(pointwise.floor_divide)
    __mod__ = _operator(pointwise.remainder)
    __rmod__ = _reflected(pointwise.remainder)
    __imod__ = _assigned(pointwise.remainder)
    __pow__ = _operator(pointwise.pow)
    __rpow__ = _reflected(pointwise.pow)
    __ipow__ = _assigned(pointwise.pow)
    __matmul__ = _operator(linear_algebra.matmul)
    __rmatmul__ = _reflected(linear_algebra.matmul)
    __and__ = _operator(pointwise.bitwise_and)
    __rand__ = _reflected(pointwise.bitwise_and)
    __iand__ = _assigned(pointwise.bitwise_and)
    __or__ = _operator(pointwise.bitwise_or)
    __ror__ = _reflected(pointwise.bitwise_or)
    __ior__ = _assigned(pointwise.bitwise_or)
    __xor__ = _operator(pointwise.bitwise_xor)
    __rxor__ = _reflected(pointwise.bitwise_xor)
    __ixor__ = _assigned(pointwise.bitwise_xor)
    __lshift__ = _operator(pointwise.bitwise_left_shift)
    __rshift__ = _operator(pointwise.bitwise_right_shift)
    __eq__ = _operator(pointwise.eq)
    __ne__ = _operator(pointwise.ne)
    __lt__ = _operator(pointwise.lt)
    __le__ = _operator(pointwise.le)
    __gt__ = _operator(pointwise.gt)
    __ge__ = _operator(pointwise.ge)
    __neg__ = pointwise.neg
    __pos__ = pointwise.positive
    __abs__ = pointwise.abs

    def __invert__(self) -> Tensor:
        if self.tensor_type.dtype.is_floating_point:
            raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
        return pointwise.bitwise_not(self)


def _rebuilt(array: Any, requires_grad: bool) -> Any:
    return creation.tensor(array, requires_grad=requires_grad)


register_tensor(Tensor)
