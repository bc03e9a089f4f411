"""Matrix products: every one of them is the IR's general `dot`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphc.functions import pointwise
from graphc.functions.axes import one_axis
from graphc.functions.promotion import Number, as_operand, expanded, shapes_broadcast
from graphc.functions.recording import record
from graphc.functions.shape import as_view
from graphc.ir.types import Shape

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor


def _pair(input: Any, other: Any, function: str) -> tuple[Tensor, Tensor]:
    x, y = as_operand(input, function), as_operand(other, function, "mat2")
    if x.tensor_type.dtype is not y.tensor_type.dtype:
        raise RuntimeError(
            f"{function}: expected m1 and m2 to have the same dtype, but got: {x.tensor_type.dtype.torch_name} != "
            f"{y.tensor_type.dtype.torch_name}; convert one with .to(dtype)"
        )
    return x, y


def _ranks(function: str, x: Tensor, y: Tensor, ranks: tuple[int, int]) -> None:
    if (len(x.tensor_type.shape), len(y.tensor_type.shape)) != ranks:
        raise RuntimeError(
            f"{function}: expected tensors of {ranks[0]} and {ranks[1]} dimensions, got {list(x.tensor_type.shape)} and "
            f"{list(y.tensor_type.shape)}"
        )


def _agree(function: str, x: Shape, y: Shape, a: int, b: int) -> None:
    if x[a] != y[b]:
        raise RuntimeError(
            f"{function}: mat1 and mat2 shapes cannot be multiplied ({_times(x)} and {_times(y)}): "
            f"size {x[a]} of the first must equal size {y[b]} of the second"
        )


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Product of two matrices."""
    x, y = _pair(input, mat2, "mm")
    _ranks("mm", x, y, (2, 2))
    _agree("mm", x.tensor_type.shape, y.tensor_type.shape, 1, 0)
    return record("dot", x, y, contract=((1,), (0,)), batch=((), ()))


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Product of a matrix and a vector."""
    x, y = _pair(input, vec, "mv")
    _ranks("mv", x, y, (2, 1))
    _agree("mv", x.tensor_type.shape, y.tensor_type.shape, 1, 0)
    return record("dot", x, y, contract=((1,), (0,)), batch=((), ()))


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Inner product of two vectors."""
    x, y = _pair(input, tensor, "dot")
    _ranks("dot", x, y, (1, 1))
    if x.tensor_type.shape != y.tensor_type.shape:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{x.tensor_type.shape[0]}] and src [{y.tensor_type.shape[0]}] to have the "
            "same number of elements"
        )
    return record("dot", x, y, contract=((0,), (0,)), batch=((), ()))


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Products of the matrices of two batches."""
    x, y = _pair(input, mat2, "bmm")
    _ranks("bmm", x, y, (3, 3))
    s, t = x.tensor_type.shape, y.tensor_type.shape
    if s[0] != t[0] or s[2] != t[1]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{s[0]}, {s[2]}] but got: "
            f"[{t[0]}, {t[1]}]."
        )
    return record("dot", x, y, contract=((2,), (1,)), batch=((0,), (0,)))


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Product of vectors, matrices or broadcast batches of matrices."""
    x, y = _pair(input, other, "matmul")
    s, t = x.tensor_type.shape, y.tensor_type.shape
    if not s or not t:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {len(s)}D and {len(t)}D"
        )
    if len(t) == 1:
        _agree("matmul", s, t, len(s) - 1, 0)
        return record("dot", x, y, contract=((len(s) - 1,), (0,)), batch=((), ()))
    _agree("matmul", s, t, len(s) - 1, len(t) - 2)
    if len(t) == 2:
        return record("dot", x, y, contract=((len(s) - 1,), (0,)), batch=((), ()))
    if len(s) == 1:
        return record("dot", y, x, contract=((len(t) - 2,), (0,)), batch=((), ()))
    if len(s) == 2:
        s = (1,) * (len(t) - 2) + s
    lead = shapes_broadcast(s[:-2], t[:-2])
    x = expanded(x, (*lead, *s[-2:]))
    y = expanded(y, (*lead, *t[-2:]))
    n = len(lead)
    axes = tuple(range(n))
    return record("dot", x, y, contract=((n + 1,), (n,)), batch=(axes, axes))


def product_of_rows(x: Tensor, y: Tensor, causal: bool = False) -> Tensor:
    """x @ yᵀ over the last two dimensions, of broadcast batches: products of all rows of x with all of y.

    Where `causal`, row i of x is multiplied with rows 0 … i of y alone; other results are 0.
    """
    x, y = _pair(x, y, "matmul")
    s, t = x.tensor_type.shape, y.tensor_type.shape
    if len(s) < 2 or len(t) < 2:
        raise RuntimeError(
            f"expected matrices or batches of matrices, but got shapes {list(s)} and {list(t)}"
        )
    _agree("matmul", s, t, len(s) - 1, len(t) - 1)
    n = max(len(s), len(t)) - 2
    return _batched(x, y, n + 1, ((1, n), (0, n)) if causal else ())


def product_with_earlier(x: Tensor, y: Tensor) -> Tensor:
    """x @ y over the last two dimensions, of broadcast batches, where row i of the result is made of rows 0 … i of y."""
    x, y = _pair(x, y, "matmul")
    s, t = x.tensor_type.shape, y.tensor_type.shape
    _agree("matmul", s, t, len(s) - 1, len(t) - 2)
    n = max(len(s), len(t)) - 2
    return _batched(x, y, n, ((0, n + 1), (0, n)))


def _batched(x: Tensor, y: Tensor, summed: int, ordered: tuple[tuple[int, int], ...]) -> Tensor:
    """Products of matrices whose batches are broadcast; x's last axis with axis `summed` of y."""
    s, t = x.tensor_type.shape, y.tensor_type.shape
    lead = shapes_broadcast(s[:-2], t[:-2])
    x, y = expanded(x, (*lead, *s[-2:])), expanded(y, (*lead, *t[-2:]))
    axes = tuple(range(len(lead)))
    return record("dot", x, y, contract=((len(lead) + 1,), (summed,)), batch=(axes, axes), ordered=ordered)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Products of all pairs of elements of two vectors."""
    _ranks("outer", input, vec2, (1, 1))
    return pointwise.mul(
        as_view(input, (*input.tensor_type.shape, 1)), as_view(vec2, (1, *vec2.tensor_type.shape))
    )


ger = outer


def _combined(input: Tensor, product: Tensor, beta: Number, alpha: Number) -> Tensor:
    scaled = product if alpha == 1 else pointwise.mul(product, alpha)
    if beta == 0:
        return scaled
    return pointwise.add(input if beta == 1 else pointwise.mul(input, beta), scaled)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · (mat1 @ mat2)."""
    return _combined(input, mm(mat1, mat2), beta, alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · (mat @ vec)."""
    return _combined(input, mv(mat, vec), beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · bmm(batch1, batch2)."""
    return _combined(input, bmm(batch1, batch2), beta, alpha)


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Contraction over pairs of dimensions: the last `dims` of a with the first of b, or two lists."""
    x, y = _pair(a, b, "tensordot")
    p, q = len(x.tensor_type.shape), len(y.tensor_type.shape)
    if isinstance(dims, int):
        left, right = tuple(range(p - dims, p)), tuple(range(dims))
    else:
        left = tuple(one_axis(d, p) for d in dims[0])
        right = tuple(one_axis(d, q) for d in dims[1])
    if len(left) != len(right) or any(
        x.tensor_type.shape[i] != y.tensor_type.shape[j] for i, j in zip(left, right, strict=False)
    ):
        raise RuntimeError(
            f"contracted dimensions need to match, but first has size {[x.tensor_type.shape[i] for i in left]} in dims "
            f"{list(left)} and second has size {[y.tensor_type.shape[j] for j in right]} in dims {list(right)}"
        )
    return record("dot", x, y, contract=(left, right), batch=((), ()))


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Products summed over the last dimensions."""
    if not input.tensor_type.shape or not other.tensor_type.shape:
        return pointwise.mul(input, other)
    return tensordot(input, other, ((-1,), (-1,)))


def einsum(equation: str, *tensors: Any) -> Tensor:
    """Einstein summation over letters (no ellipsis; a letter at most once an operand).

    Operands are contracted from left to right. Raises RuntimeError for an equation that does not
    fit the operands.
    """
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or any(len(set(term)) != len(term) for term in terms):
        raise NotImplementedError(
            f"einsum(): ellipsis and repeated letters are not supported, got {equation!r}"
        )
    if len(terms) != len(tensors):
        raise RuntimeError(f"einsum(): {len(terms)} operands in the equation, but {len(tensors)} tensors")
    for term, x in zip(terms, tensors, strict=True):
        if len(term) != len(x.tensor_type.shape):
            raise RuntimeError(
                f"einsum(): the number of subscripts in {term!r} does not match the number of dimensions "
                f"{len(x.tensor_type.shape)}"
            )
    if not arrow:
        letters = sorted(set(left) - {","})
        output = "".join(c for c in letters if left.count(c) == 1)
    x, names = tensors[0], terms[0]
    for i in range(1, len(terms)):
        needed = set(output).union(*terms[i + 1 :])
        x, names = _contract(x, names, tensors[i], terms[i], needed)
    return _arranged(x, names, output)


def _contract(x: Tensor, p: str, y: Tensor, q: str, needed: set[str]) -> tuple[Tensor, str]:
    x, p = _summed(x, p, needed | set(q))
    y, q = _summed(y, q, needed | set(p))
    batch = [c for c in p if c in q and c in needed]
    shared = [c for c in p if c in q and c not in needed]
    result = record(
        "dot",
        x,
        y,
        contract=(tuple(p.index(c) for c in shared), tuple(q.index(c) for c in shared)),
        batch=(tuple(p.index(c) for c in batch), tuple(q.index(c) for c in batch)),
    )
    free = [c for c in p if c not in q] + [c for c in q if c not in p]
    return result, "".join(batch + free)


def _summed(x: Tensor, names: str, kept: set[str]) -> tuple[Tensor, str]:
    axes = tuple(i for i, c in enumerate(names) if c not in kept)
    return (record("sum", x, axes=axes) if axes else x), "".join(c for c in names if c in kept)


def _arranged(x: Tensor, names: str, output: str) -> Tensor:
    x, names = _summed(x, names, set(output))
    if sorted(names) != sorted(output):
        raise RuntimeError(f"einsum(): output subscripts {output!r} do not match the operands' {names!r}")
    return x if names == output else record("permute", x, axes=tuple(names.index(c) for c in output))
