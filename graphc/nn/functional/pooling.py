"""Pooling over windows."""

from __future__ import annotations

from typing import Any

from graphc.functions import reduction, shape
from graphc.functions.promotion import as_operand
from graphc.functions.recording import record
from graphc.ir.dims import Expr
from graphc.nn.functional.convolutions import pair_of
from graphc.tensor_class import Tensor

__all__ = ["adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"]


def _pooled(input: Tensor, name: str) -> tuple[Tensor, bool]:
    x = as_operand(input, name)
    rank = len(x.tensor_type.shape)
    if rank not in (3, 4):
        raise RuntimeError(f"{name}: expected a 3D or 4D input, got size {list(x.tensor_type.shape)}")
    return (shape.unsqueeze(x, 0), True) if rank == 3 else (x, False)


def _windows(kernel_size: Any, stride: Any, padding: Any) -> dict[str, tuple[int, int]]:
    """Attributes of a pooling op; windows stand side by side where no stride is given."""
    kernel = pair_of(kernel_size, "kernel_size")
    steps = kernel if stride is None or stride == [] else pair_of(stride, "stride")
    return {"kernel": kernel, "stride": steps, "padding": pair_of(padding, "padding")}


def _flat(*options: Any) -> list[Any]:
    """Options of a window along one axis as numbers; None stays."""
    return [v if v is None or isinstance(v, int) else v[0] for v in options]


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window of [N, C, H, W] (and where it is, with `return_indices`)."""
    x, single = _pooled(input, "max_pool2d")
    values, indices = record(
        "max_pool2d",
        x,
        **_windows(kernel_size, stride, padding),
        dilation=pair_of(dilation, "dilation"),
        ceil_mode=bool(ceil_mode),
    )
    if single:
        values, indices = shape.squeeze(values, 0), shape.squeeze(indices, 0)
    return (values, indices) if return_indices else values


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window of [N, C, L], as a max_pool2d of height 1."""
    k, s, p, d = _flat(kernel_size, stride, padding, dilation)
    found = max_pool2d(
        shape.unsqueeze(input, -2), (1, k), (1, k if s is None else s), (0, p), (1, d), ceil_mode, True
    )
    values, indices = (shape.squeeze(v, -2) for v in found)
    return (values, indices) if return_indices else values


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window of [N, C, H, W]."""
    x, single = _pooled(input, "avg_pool2d")
    y = record(
        "avg_pool2d",
        x,
        **_windows(kernel_size, stride, padding),
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )
    return shape.squeeze(y, 0) if single else y


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of [N, C, L], as an avg_pool2d of height 1."""
    k, s, p = _flat(kernel_size, stride, padding)
    y = avg_pool2d(
        shape.unsqueeze(input, -2), (1, k), (1, k if s is None else s), (0, p), ceil_mode, count_include_pad
    )
    return shape.squeeze(y, -2)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of output_size windows that cover the input, whose sizes must be multiples of it."""
    pair = (
        (output_size, output_size)
        if isinstance(output_size, int) or output_size is None
        else tuple(output_size)
    )
    sizes: Any = input.tensor_type.shape[-2:]
    wanted = tuple(s if o is None else o for s, o in zip(sizes, pair, strict=True))
    if wanted == (1, 1) and any(isinstance(s, Expr) for s in sizes):
        return reduction.mean(input, (-2, -1), True)  # a window has a fixed size, a mean need not
    if any(s % o for s, o in zip(sizes, wanted, strict=True)):
        raise NotImplementedError(
            f"adaptive_avg_pool2d: sizes {list(sizes)} must be multiples of output_size {list(wanted)}"
        )
    return avg_pool2d(input, tuple(s // o for s, o in zip(sizes, wanted, strict=True)))
