"""graphc: a static-graph deep-learning compiler.

`import graphc as torch`, `import graphc.nn as nn` and `import graphc.optim as optim` let ordinary
PyTorch code run. Every tensor operation is recorded and compiled; `graphc.compile` makes a whole
function, a training step included, one native call.
Functions of tensors are listed in `graphc/functions/public.py`.
"""

import importlib as _importlib
import math as _math
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from graphc import accelerator, autograd, cuda, func, ir, nn, optim, random, utils
from graphc.autograd.anomaly import is_anomaly_enabled
from graphc.compiler.api import Dim, compile, run_graph
from graphc.core import (
    Generator,
    Size,
    SymBool,
    SymInt,
    _check,
    default_generator,
    enable_grad,
    inference_mode,
    initial_seed,
    is_grad_enabled,
    manual_seed,
    no_grad,
    pending,
    realize,
    seed,
    set_grad_enabled,
    sym_max,
    sym_min,
)
from graphc.devices import device
from graphc.formatting import get_printoptions, set_printoptions
from graphc.func import vmap
from graphc.functions import public as _public
from graphc.functions.public import *  # noqa: F403 - its names are graphc's
from graphc.ir.errors import (
    CompileError,
    Error,
    LoadError,
    MissingToolError,
    TraceError,
    VerifyError,
)
from graphc.ir.types import (
    DType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from graphc.ir.types import bool_ as bool
from graphc.number_info import finfo, iinfo
from graphc.runtime.threads import get_num_threads, set_num_threads
from graphc.serialization import load, save
from graphc.tensor_class import Tensor

if _TYPE_CHECKING:
    from graphc.exporting import export_library, load_library
    from graphc.pictures import visualize

__version__ = "0.1.0"

_LATER = {
    "export_library": "graphc.exporting",
    "load_library": "graphc.exporting",
    "visualize": "graphc.pictures",
}
"""Names that are imported when they are first used."""


def __getattr__(name: str) -> _Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(_importlib.import_module(_LATER[name]), name)
    return value


dtype = DType
half, float, double = float16, float32, float64
short, int, long = int16, int32, int64
strided = "graphc.strided"
contiguous_format, preserve_format = "graphc.contiguous_format", "graphc.preserve_format"
e, inf, nan, pi = _math.e, _math.inf, _math.nan, _math.pi
newaxis = None

__all__ = [
    "CompileError",
    "DType",
    "Dim",
    "Error",
    "Generator",
    "LoadError",
    "MissingToolError",
    "Size",
    "SymBool",
    "SymInt",
    "Tensor",
    "TraceError",
    "VerifyError",
    "_check",
    "accelerator",
    "autograd",
    "bfloat16",
    "bool",
    "compile",
    "contiguous_format",
    "cuda",
    "default_generator",
    "device",
    "double",
    "dtype",
    "e",
    "enable_grad",
    "export_library",
    "finfo",
    "float",
    "float16",
    "float32",
    "float64",
    "func",
    "get_num_threads",
    "get_printoptions",
    "half",
    "iinfo",
    "inf",
    "inference_mode",
    "initial_seed",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "ir",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "load",
    "load_library",
    "long",
    "manual_seed",
    "nan",
    "newaxis",
    "nn",
    "no_grad",
    "optim",
    "pending",
    "pi",
    "preserve_format",
    "random",
    "realize",
    "run_graph",
    "save",
    "seed",
    "set_grad_enabled",
    "set_num_threads",
    "set_printoptions",
    "short",
    "strided",
    "sym_max",
    "sym_min",
    "uint8",
    "utils",
    "visualize",
    "vmap",
]
__all__ += _public.__all__
