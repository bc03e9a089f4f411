"""Planning: scheduled kernels become a program of phases over a table of buffers."""

from graphc.passes.plan.apply import plan
from graphc.passes.plan.verify import verify_program

__all__ = ["plan", "verify_program"]
