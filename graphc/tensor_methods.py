"""The methods of `Tensor`, as mixin classes by family.

Each is the function itself, so that a method call costs no extra frame. Nothing else stands in
these classes: names such as `float` and `any` hide the builtins of their scope.
"""

from __future__ import annotations

from graphc.functions import (
    conversion,
    creation,
    distributions,
    indexing,
    inplace,
    inplace_random,
    linear_algebra,
    pointwise,
    random,
    reduction,
    shape,
)
from graphc.ir import types

__all__ = [
    "ConversionMethods",
    "FillMethods",
    "InPlaceMethods",
    "InPlaceViewMethods",
    "IndexMethods",
    "PointwiseMethods",
    "ProductMethods",
    "RandomMethods",
    "ReductionMethods",
    "ShapeMethods",
]


class PointwiseMethods:
    """Elementwise methods."""

    __slots__ = ()

    abs = pointwise.abs
    absolute = pointwise.absolute
    add = pointwise.add
    addcdiv = pointwise.addcdiv
    addcmul = pointwise.addcmul
    bitwise_and = pointwise.bitwise_and
    bitwise_left_shift = pointwise.bitwise_left_shift
    bitwise_not = pointwise.bitwise_not
    bitwise_or = pointwise.bitwise_or
    bitwise_right_shift = pointwise.bitwise_right_shift
    bitwise_xor = pointwise.bitwise_xor
    ceil = pointwise.ceil
    clamp = pointwise.clamp
    clamp_max = pointwise.clamp_max
    clamp_min = pointwise.clamp_min
    clip = pointwise.clip
    cos = pointwise.cos
    cosh = pointwise.cosh
    div = pointwise.div
    divide = pointwise.divide
    eq = pointwise.eq
    erf = pointwise.erf
    exp = pointwise.exp
    exp2 = pointwise.exp2
    expm1 = pointwise.expm1
    fix = pointwise.fix
    floor = pointwise.floor
    floor_divide = pointwise.floor_divide
    fmod = pointwise.fmod
    frac = pointwise.frac
    ge = pointwise.ge
    greater = pointwise.greater
    greater_equal = pointwise.greater_equal
    gt = pointwise.gt
    isclose = pointwise.isclose
    isfinite = pointwise.isfinite
    isinf = pointwise.isinf
    isnan = pointwise.isnan
    le = pointwise.le
    lerp = pointwise.lerp
    less = pointwise.less
    less_equal = pointwise.less_equal
    log = pointwise.log
    log10 = pointwise.log10
    log1p = pointwise.log1p
    log2 = pointwise.log2
    logical_and = pointwise.logical_and
    logical_not = pointwise.logical_not
    logical_or = pointwise.logical_or
    logical_xor = pointwise.logical_xor
    logit = pointwise.logit
    lt = pointwise.lt
    masked_fill = pointwise.masked_fill
    maximum = pointwise.maximum
    minimum = pointwise.minimum
    mul = pointwise.mul
    multiply = pointwise.multiply
    nan_to_num = pointwise.nan_to_num
    ne = pointwise.ne
    neg = pointwise.neg
    negative = pointwise.negative
    not_equal = pointwise.not_equal
    positive = pointwise.positive
    pow = pointwise.pow
    reciprocal = pointwise.reciprocal
    relu = pointwise.relu
    remainder = pointwise.remainder
    round = pointwise.round
    rsqrt = pointwise.rsqrt
    rsub = pointwise.rsub
    sigmoid = pointwise.sigmoid
    sign = pointwise.sign
    sin = pointwise.sin
    sinh = pointwise.sinh
    sqrt = pointwise.sqrt
    square = pointwise.square
    sub = pointwise.sub
    subtract = pointwise.subtract
    tan = pointwise.tan
    tanh = pointwise.tanh
    true_divide = pointwise.true_divide
    trunc = pointwise.trunc


class ReductionMethods:
    """Reductions."""

    __slots__ = ()

    all = reduction.all
    allclose = reduction.allclose
    amax = reduction.amax
    amin = reduction.amin
    aminmax = reduction.aminmax
    any = reduction.any
    argmax = reduction.argmax
    argmin = reduction.argmin
    count_nonzero = reduction.count_nonzero
    cumsum = reduction.cumsum
    equal = reduction.equal
    log_softmax = reduction.log_softmax
    logsumexp = reduction.logsumexp
    max = reduction.max
    mean = reduction.mean
    min = reduction.min
    norm = reduction.norm
    prod = reduction.prod
    softmax = reduction.softmax
    std = reduction.std
    sum = reduction.sum
    var = reduction.var


class ShapeMethods:
    """Views, joins and splits."""

    __slots__ = ()

    broadcast_to = shape.broadcast_to
    chunk = shape.chunk
    clone = shape.clone
    contiguous = shape.contiguous
    diag = shape.diag
    diagonal = shape.diagonal
    expand = shape.expand
    expand_as = shape.expand_as
    flatten = shape.flatten
    flip = shape.flip
    moveaxis = shape.moveaxis
    movedim = shape.movedim
    narrow = shape.narrow
    permute = shape.permute
    ravel = shape.ravel
    repeat = shape.repeat
    repeat_interleave = shape.repeat_interleave
    reshape = shape.reshape
    reshape_as = shape.reshape_as
    roll = shape.roll
    select = shape.select
    split = shape.split
    squeeze = shape.squeeze
    stride = shape.stride
    swapaxes = shape.swapaxes
    swapdims = shape.swapdims
    t = shape.t
    tile = shape.tile
    transpose = shape.transpose
    tril = shape.tril
    triu = shape.triu
    unbind = shape.unbind
    unflatten = shape.unflatten
    unsqueeze = shape.unsqueeze
    view = shape.view
    view_as = shape.view_as


class ProductMethods:
    """Matrix products."""

    __slots__ = ()

    addmm = linear_algebra.addmm
    addmv = linear_algebra.addmv
    baddbmm = linear_algebra.baddbmm
    bmm = linear_algebra.bmm
    dot = linear_algebra.dot
    ger = linear_algebra.ger
    inner = linear_algebra.inner
    matmul = linear_algebra.matmul
    mm = linear_algebra.mm
    mv = linear_algebra.mv
    outer = linear_algebra.outer


class IndexMethods:
    """Gathers and scatters."""

    __slots__ = ()

    argwhere = indexing.argwhere
    gather = indexing.gather
    index_add = indexing.index_add
    index_copy = indexing.index_copy
    index_fill = indexing.index_fill
    index_put = indexing.index_put
    index_select = indexing.index_select
    masked_select = indexing.masked_select
    nonzero = indexing.nonzero
    scatter = indexing.scatter
    scatter_add = indexing.scatter_add
    take = indexing.take
    take_along_dim = indexing.take_along_dim


class RandomMethods:
    """Random draws."""

    __slots__ = ()

    bernoulli = random.bernoulli
    multinomial = distributions.multinomial


class FillMethods:
    """In-place fills and copies."""

    __slots__ = ()

    bernoulli_ = inplace_random.bernoulli_
    copy_ = inplace.copy_
    cauchy_ = inplace_random.cauchy_
    exponential_ = inplace_random.exponential_
    geometric_ = inplace_random.geometric_
    log_normal_ = inplace_random.log_normal_
    fill_ = inplace.fill_
    fill_diagonal_ = inplace.fill_diagonal_
    index_put_ = inplace.index_put_
    masked_fill_ = inplace.masked_fill_
    normal_ = inplace_random.normal_
    random_ = inplace_random.random_
    uniform_ = inplace_random.uniform_
    zero_ = inplace.zero_


class InPlaceMethods:
    """In-place variants: the function's value written into the tensor."""

    __slots__ = ()

    abs_ = inplace.in_place(pointwise.abs)
    add_ = inplace.in_place(pointwise.add)
    addcdiv_ = inplace.in_place(pointwise.addcdiv)
    addcmul_ = inplace.in_place(pointwise.addcmul)
    addmm_ = inplace.in_place(linear_algebra.addmm)
    addmv_ = inplace.in_place(linear_algebra.addmv)
    baddbmm_ = inplace.in_place(linear_algebra.baddbmm)
    bitwise_and_ = inplace.in_place(pointwise.bitwise_and)
    bitwise_not_ = inplace.in_place(pointwise.bitwise_not)
    bitwise_or_ = inplace.in_place(pointwise.bitwise_or)
    bitwise_xor_ = inplace.in_place(pointwise.bitwise_xor)
    ceil_ = inplace.in_place(pointwise.ceil)
    clamp_ = inplace.in_place(pointwise.clamp)
    clamp_max_ = inplace.in_place(pointwise.clamp_max)
    clamp_min_ = inplace.in_place(pointwise.clamp_min)
    cos_ = inplace.in_place(pointwise.cos)
    cumsum_ = inplace.in_place(reduction.cumsum)
    div_ = inplace.in_place(pointwise.div)
    eq_ = inplace.in_place(pointwise.eq)
    erf_ = inplace.in_place(pointwise.erf)
    exp_ = inplace.in_place(pointwise.exp)
    expm1_ = inplace.in_place(pointwise.expm1)
    floor_ = inplace.in_place(pointwise.floor)
    floor_divide_ = inplace.in_place(pointwise.floor_divide)
    fmod_ = inplace.in_place(pointwise.fmod)
    frac_ = inplace.in_place(pointwise.frac)
    ge_ = inplace.in_place(pointwise.ge)
    gt_ = inplace.in_place(pointwise.gt)
    index_add_ = inplace.in_place(indexing.index_add)
    index_copy_ = inplace.in_place(indexing.index_copy)
    index_fill_ = inplace.in_place(indexing.index_fill)
    le_ = inplace.in_place(pointwise.le)
    lerp_ = inplace.in_place(pointwise.lerp)
    log_ = inplace.in_place(pointwise.log)
    log10_ = inplace.in_place(pointwise.log10)
    log1p_ = inplace.in_place(pointwise.log1p)
    log2_ = inplace.in_place(pointwise.log2)
    logical_and_ = inplace.in_place(pointwise.logical_and)
    logical_not_ = inplace.in_place(pointwise.logical_not)
    logical_or_ = inplace.in_place(pointwise.logical_or)
    logical_xor_ = inplace.in_place(pointwise.logical_xor)
    lt_ = inplace.in_place(pointwise.lt)
    mul_ = inplace.in_place(pointwise.mul)
    nan_to_num_ = inplace.in_place(pointwise.nan_to_num)
    ne_ = inplace.in_place(pointwise.ne)
    neg_ = inplace.in_place(pointwise.neg)
    pow_ = inplace.in_place(pointwise.pow)
    reciprocal_ = inplace.in_place(pointwise.reciprocal)
    relu_ = inplace.in_place(pointwise.relu)
    remainder_ = inplace.in_place(pointwise.remainder)
    round_ = inplace.in_place(pointwise.round)
    rsqrt_ = inplace.in_place(pointwise.rsqrt)
    scatter_ = inplace.in_place(indexing.scatter)
    scatter_add_ = inplace.in_place(indexing.scatter_add)
    sigmoid_ = inplace.in_place(pointwise.sigmoid)
    sign_ = inplace.in_place(pointwise.sign)
    sin_ = inplace.in_place(pointwise.sin)
    sqrt_ = inplace.in_place(pointwise.sqrt)
    square_ = inplace.in_place(pointwise.square)
    sub_ = inplace.in_place(pointwise.sub)
    tanh_ = inplace.in_place(pointwise.tanh)
    tril_ = inplace.in_place(shape.tril)
    triu_ = inplace.in_place(shape.triu)
    trunc_ = inplace.in_place(pointwise.trunc)


class InPlaceViewMethods:
    """In-place variants of views: the tensor itself becomes the view."""

    __slots__ = ()

    squeeze_ = inplace.seen_as(shape.squeeze)
    swapaxes_ = swapdims_ = inplace.seen_as(shape.swapaxes)
    t_ = inplace.seen_as(shape.t)
    transpose_ = inplace.seen_as(shape.transpose)
    unsqueeze_ = inplace.seen_as(shape.unsqueeze)


class ConversionMethods:
    """Conversions, and tensors like this one."""

    __slots__ = ()

    bfloat16 = conversion.dtype_method("bfloat16", types.bfloat16)
    bool = conversion.dtype_method("bool", types.bool_)
    byte = conversion.dtype_method("byte", types.uint8)
    char = conversion.dtype_method("char", types.int8)
    double = conversion.dtype_method("double", types.float64)
    float = conversion.dtype_method("float", types.float32)
    half = conversion.dtype_method("half", types.float16)
    int = conversion.dtype_method("int", types.int32)
    long = conversion.dtype_method("long", types.int64)
    short = conversion.dtype_method("short", types.int16)
    new_tensor = conversion.new_method(creation.tensor)
    new_zeros = conversion.new_method(creation.zeros)
    new_ones = conversion.new_method(creation.ones)
    new_empty = conversion.new_method(creation.empty)
    new_full = conversion.new_method(creation.full)
    to = conversion.to
    cpu = conversion.on_cpu
    cuda = conversion.on_cuda
    type = conversion.of_type
    type_as = conversion.type_as
    where = conversion.where_method
