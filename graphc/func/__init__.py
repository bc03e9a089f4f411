"""Function transforms: derivatives of functions and functions over many instances at once.

`grad`, `grad_and_value`, `vjp`, `jvp`, `linearize`, `jacrev`, `jacfwd`, `hessian`, `vmap`, and modules as functions:
`functional_call`, `stack_module_state`. Arguments may be tensors and nests (dict, list, tuple) of them;
gradients have their structure. Transforms of transformed functions compose.
"""

from __future__ import annotations

from graphc.func.jacobians import hessian, jacfwd, jacrev
from graphc.func.mapping import vmap
from graphc.func.modules import functional_call, stack_module_state
from graphc.func.transforms import grad, grad_and_value, jvp, linearize, vjp

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "stack_module_state",
    "vjp",
    "vmap",
]
