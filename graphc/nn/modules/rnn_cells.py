"""One step of a recurrent layer as a Module of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphc.devices import check_device
from graphc.functions import creation, shape
from graphc.ir.types import DType
from graphc.nn import functional as F
from graphc.nn import init
from graphc.nn.modules.module import Module
from graphc.nn.modules.rnn import GATES, STEPS, elman_mode, state_pair
from graphc.nn.parameter import Parameter
from graphc.tensor_class import Tensor

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """One step of one layer: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`, uniform in ±1/sqrt(hidden_size)."""

    mode: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        mode: str,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        check_device(device)
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.mode = mode
        rows = GATES[mode] * hidden_size
        self.weight_ih = Parameter(creation.empty(rows, input_size, dtype=dtype))
        self.weight_hh = Parameter(creation.empty(rows, hidden_size, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(creation.empty(rows, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters again."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _run(self, input: Any, states: Sequence[Any] | None, count: int) -> tuple[Any, ...]:
        name = self._get_name()
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for s in states or ():
            if s.dim() not in (1, 2):
                raise ValueError(f"{name}: Expected hidden to be 1D or 2D, got {s.dim()}D instead")
        batched = input.dim() == 2
        x = input if batched else shape.unsqueeze(input, 0)
        if x.shape[1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[1]}, expected {self.input_size}"
            )
        if states is None:
            states = [creation.zeros(x.shape[0], self.hidden_size, dtype=x.dtype) for _ in range(count)]
        else:
            expected = (*input.shape[:-1], self.hidden_size)
            for s in states:
                if tuple(s.shape) != expected:
                    raise RuntimeError(
                        f"{name}: hidden has inconsistent size: got {list(s.shape)}, expected {list(expected)}"
                    )
            states = [s if batched else shape.unsqueeze(s, 0) for s in states]
        product = F.linear(x, self.weight_ih, self.bias_ih)
        after = STEPS[self.mode](self.weight_hh, self.bias_hh, None)(tuple(states), product)
        return after if batched else tuple(shape.squeeze(s, 0) for s in after)

    def extra_repr(self) -> str:
        """The constructor's arguments that are not at their defaults."""
        text = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")
        return text + (", nonlinearity=relu" if self.mode == "RNN_RELU" else "")


class LSTMCell(RNNCellBase):
    """One step of an LSTM; see `LSTM`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, "LSTM", device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """[batch, input] or [input], and (h, c), to the next (h, c)."""
        h, c = self._run(input, state_pair(self, hx), 2)
        return h, c


class GRUCell(RNNCellBase):
    """One step of a GRU; see `GRU`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, "GRU", device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """[batch, input] or [input], and h, to the next h."""
        (h,) = self._run(input, None if hx is None else [hx], 1)
        found: Tensor = h
        return found


class RNNCell(RNNCellBase):
    """One step of an Elman network; see `RNN`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}; select from 'tanh' or 'relu'")
        super().__init__(input_size, hidden_size, bias, elman_mode(nonlinearity), device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """[batch, input] or [input], and h, to the next h."""
        (h,) = self._run(input, None if hx is None else [hx], 1)
        found: Tensor = h
        return found
