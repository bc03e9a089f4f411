"""Automatic differentiation as a module: `backward`, `grad`, grad modes, functions with a backward of their own.

`graphc.autograd.functional` has derivatives of functions, `forward_ad` duals; `gradcheck` holds gradients against difference quotients.
"""

from __future__ import annotations

from graphc.autograd import forward_ad, functional
from graphc.autograd.anomaly import detect_anomaly, set_detect_anomaly
from graphc.autograd.function import Function
from graphc.autograd.gradient_checks import GradcheckError, gradcheck, gradgradcheck
from graphc.autograd.gradients import backward, grad
from graphc.core.modes import enable_grad, inference_mode, no_grad, set_grad_enabled

__all__ = [
    "Function",
    "GradcheckError",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "forward_ad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
]
