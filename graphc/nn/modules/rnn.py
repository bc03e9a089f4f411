"""Recurrent layers: a loop over time for each layer and direction, with the input product before it.

Gate order, parameter names and equations are PyTorch's. Nothing below knows of these layers: they are
ordinary recorded operations in a `scan`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from graphc.core import assume
from graphc.devices import check_device
from graphc.functions import creation, indexing, pointwise, shape
from graphc.functions.control import scan
from graphc.ir.types import DType
from graphc.nn import functional as F
from graphc.nn import init
from graphc.nn.modules.module import Module
from graphc.nn.parameter import Parameter
from graphc.nn.utils.rnn import PackedSequence, mask_of, packed_rows, padded_rows
from graphc.tensor_class import Tensor

__all__ = ["GATES", "GRU", "LSTM", "RNN", "STEPS", "RNNBase", "elman_mode", "state_pair"]

Step = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]
"""One step: state and input product to the next state, whose first member is the output."""


def _lstm(weight: Any, bias: Any, projection: Any) -> Step:
    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        h, c = state
        i, f, g, o = shape.chunk(pointwise.add(x, F.linear(h, weight, bias)), 4, -1)
        kept = pointwise.mul(pointwise.sigmoid(f), c)
        c = pointwise.add(kept, pointwise.mul(pointwise.sigmoid(i), pointwise.tanh(g)))
        h = pointwise.mul(pointwise.sigmoid(o), pointwise.tanh(c))
        return (h if projection is None else F.linear(h, projection)), c

    return step


def _gru(weight: Any, bias: Any, projection: Any) -> Step:
    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h,) = state
        x_reset, x_update, x_new = shape.chunk(x, 3, -1)
        h_reset, h_update, h_new = shape.chunk(F.linear(h, weight, bias), 3, -1)
        reset = pointwise.sigmoid(pointwise.add(x_reset, h_reset))
        update = pointwise.sigmoid(pointwise.add(x_update, h_update))
        new = pointwise.tanh(pointwise.add(x_new, pointwise.mul(reset, h_new)))
        return (pointwise.add(new, pointwise.mul(update, pointwise.sub(h, new))),)

    return step


def _elman(activation: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Step]:
    def make(weight: Any, bias: Any, projection: Any) -> Step:
        def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
            return (activation(pointwise.add(x, F.linear(state[0], weight, bias))),)

        return step

    return make


STEPS: dict[str, Callable[[Any, Any, Any], Step]] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN_TANH": _elman(pointwise.tanh),
    "RNN_RELU": _elman(pointwise.relu),
}
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_JOINT_BIAS = frozenset({"LSTM", "RNN_TANH", "RNN_RELU"})
"""Where the two biases are only ever added to each other: they join the input product."""


def state_pair(module: Module, hx: Any) -> Sequence[Any] | None:
    """The two states of an LSTM. Raises TypeError for anything but a pair of Tensors."""
    if hx is None:
        return None
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        got = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else type(hx).__name__
        raise TypeError(f"{module._get_name()}: hx must be a tuple of two Tensors (h_0, c_0), got {got}")
    return hx


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero")


class RNNBase(Module):
    """Layers of a recurrent network over time, in one or both directions.

    Parameters are `weight_ih_l0` [gates·hidden, input], `weight_hh_l0` [gates·hidden, hidden], `bias_ih_l0` and
    `bias_hh_l0`, with further layers' numbers and `_reverse`; all start uniform in ±1/sqrt(hidden_size).
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        check_device(device)
        super().__init__()
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
            )
        _check_size("hidden_size", hidden_size)
        _check_size("num_layers", num_layers)
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                UserWarning,
                stacklevel=3,
            )
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        rows, out = GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * self._directions
            for suffix in self._suffixes(layer):
                self._add("weight_ih" + suffix, (rows, width), dtype)
                self._add("weight_hh" + suffix, (rows, out), dtype)
                if bias:
                    self._add("bias_ih" + suffix, (rows,), dtype)
                    self._add("bias_hh" + suffix, (rows,), dtype)
                if proj_size:
                    self._add("weight_hr" + suffix, (proj_size, hidden_size), dtype)
        self.reset_parameters()

    def _add(self, name: str, sizes: tuple[int, ...], dtype: DType | None) -> None:
        setattr(self, name, Parameter(creation.empty(*sizes, dtype=dtype)))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    def reset_parameters(self) -> None:
        """Draws the parameters again."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        suffixes = [s for layer in range(self.num_layers) for s in self._suffixes(layer)]
        return [[p for n, p in self.named_parameters() if n.partition("_l")[2] == s[2:]] for s in suffixes]

    def flatten_parameters(self) -> None:
        """Does nothing: parameters need no common block of memory here."""

    # -- forward --------------------------------------------------------------------------

    def _widths(self) -> list[int]:
        """Last sizes of the states: of h, and of c where there is one."""
        out = self.proj_size or self.hidden_size
        return [out, self.hidden_size] if self.mode == "LSTM" else [out]

    def _run(self, input: Any, states: Sequence[Any] | None) -> tuple[Any, list[Any]]:
        """Output and last states, laid out as the arguments are."""
        if isinstance(input, PackedSequence):
            return self._run_packed(input, states)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )
        self._check_dtype(input)
        x = input if batched else shape.unsqueeze(input, 1)
        if batched and self.batch_first:
            x = shape.transpose(x, 0, 1)
        steps, batch = x.shape[0], x.shape[1]
        assume(
            steps,
            ">=",
            1,
            RuntimeError,
            f"{self._get_name()}: expected a sequence length larger than 0, got input of shape {list(input.shape)}",
        )
        if states is None:
            states = self._zeros(batch, x.dtype)
        else:
            self._check_states(states, batched, batch)
            states = [s if batched else shape.unsqueeze(s, 1) for s in states]
        x, final = self._layers(x, states, None)
        if not batched:
            return shape.squeeze(x, 1), [shape.squeeze(s, 1) for s in final]
        return (shape.transpose(x, 0, 1) if self.batch_first else x), final

    def _run_packed(
        self, input: PackedSequence, states: Sequence[Any] | None
    ) -> tuple[PackedSequence, list[Any]]:
        """The same for packed data: steps behind a sequence's end leave its state as it is."""
        packing, data = input.packing(), input.data
        if data.dim() != 2 or data.shape[0] != packing.rows or data.shape[1] != self.input_size:
            raise RuntimeError(
                f"{self._get_name()}: expected packed data of shape [{packing.rows}, {self.input_size}] (the sum of "
                f"batch_sizes, input_size), got {list(data.shape)}"
            )
        self._check_dtype(data)
        batch = packing.sizes[0]
        if states is None:
            states = self._zeros(batch, data.dtype)
        else:
            self._check_states(states, True, batch)
            if input.sorted_indices is not None:
                states = [indexing.index_select(s, 1, input.sorted_indices) for s in states]
        ragged = packing.sizes[-1] < batch
        x, final = self._layers(padded_rows(data, packing), states, mask_of(packing, 3) if ragged else None)
        if input.unsorted_indices is not None:
            final = [indexing.index_select(s, 1, input.unsorted_indices) for s in final]
        return input.with_data(packed_rows(x, packing)), final

    def _zeros(self, batch: int, dtype: DType) -> list[Any]:
        count = self.num_layers * self._directions
        return [creation.zeros(count, batch, width, dtype=dtype) for width in self._widths()]

    def _layers(self, x: Any, states: Sequence[Any], mask: Any) -> tuple[Any, list[Any]]:
        """All layers over [time, batch, input]; `mask` [time, batch, 1] says which steps there are."""
        last: list[list[Any]] = [[] for _ in states]
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = F.dropout(x, self.dropout, True)
            outputs = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                n = layer * self._directions + direction
                after, out = self._layer(x, suffix, tuple(s[n] for s in states), mask, reverse=direction == 1)
                outputs.append(out)
                for kept, value in zip(last, after, strict=True):
                    kept.append(value)
            x = outputs[0] if len(outputs) == 1 else shape.cat(outputs, -1)
        return x, [shape.stack(values, 0) for values in last]

    def _layer(
        self, x: Any, suffix: str, state: tuple[Any, ...], mask: Any, *, reverse: bool
    ) -> tuple[tuple[Any, ...], Any]:
        """Last state and all outputs of one layer in one direction."""
        own = self.__dict__["_parameters"]
        bias, inner = own.get("bias_ih" + suffix), own.get("bias_hh" + suffix)
        if bias is not None and self.mode in _JOINT_BIAS:
            bias, inner = pointwise.add(bias, inner), None
        product = F.linear(x, own["weight_ih" + suffix], bias)
        step = STEPS[self.mode](own["weight_hh" + suffix], inner, own.get("weight_hr" + suffix))

        def body(carry: tuple[Any, ...], part: Any) -> tuple[tuple[Any, ...], Any]:
            after = step(carry, part)
            return after, after[0]

        def masked(carry: tuple[Any, ...], part: Any) -> tuple[tuple[Any, ...], Any]:
            there, part = part
            after = tuple(pointwise.where(there, a, b) for a, b in zip(step(carry, part), carry, strict=True))
            return after, after[0]

        found: tuple[tuple[Any, ...], Any]
        if mask is None:
            found = scan(body, state, product, reverse=reverse)
        else:
            found = scan(masked, state, (mask, product), reverse=reverse)
        return found

    def _check_dtype(self, input: Any) -> None:
        """Raises ValueError, as PyTorch does, where the input has another dtype than the parameters."""
        dtype = self.weight_ih_l0.dtype
        if input.dtype != dtype:
            raise ValueError(
                f"{self._get_name()}: input dtype ({input.dtype.name}) does not match weight dtype ({dtype.name}); convert "
                f"one of them with .to(...)"
            )

    def _check_states(self, states: Sequence[Any], batched: bool, batch: int) -> None:
        """Raises RuntimeError, as PyTorch does, where initial states have other sizes than they must."""
        rank = 3 if batched else 2
        if any(s.dim() != rank for s in states):
            kind, ranks = ("batched" if batched else "unbatched"), ", ".join(f"{s.dim()}-D" for s in states)
            what = f"hx and cx should also be {rank}-D but got ({ranks}) tensors"
            if len(states) == 1:
                what = f"hx should also be {rank}-D but got {ranks} tensor"
            raise RuntimeError(f"For {kind} {rank}-D input, {what}")
        for i, (s, width) in enumerate(zip(states, self._widths(), strict=True)):
            expected = (self.num_layers * self._directions, *((batch,) if batched else ()), width)
            if tuple(s.shape) != expected:
                name = f"hidden[{i}]" if len(states) == 2 else "hidden"
                raise RuntimeError(f"Expected {name} size {expected}, got {list(s.shape)}")

    def extra_repr(self) -> str:
        """The constructor's arguments that are not at their defaults."""
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                text += f", {name}={value}"
        return text


class LSTM(RNNBase):
    """Long short-term memory: i, f, g, o = W_ih x + b_ih + W_hh h + b_hh; c' = σ(f) c + σ(i) tanh(g);
    h' = σ(o) tanh(c').

    With `proj_size` h' is multiplied by `weight_hr`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """[time, batch, input] ([batch, time, input] with `batch_first`, [time, input] unbatched) to all h,
        and (h, c) after the last step of every layer and direction. States start at 0 unless given.
        A PackedSequence gives a PackedSequence, and the states after each sequence's own last step."""
        output, (h, c) = self._run(input, state_pair(self, hx))
        return output, (h, c)


class _PlainRNN(RNNBase):
    """Layers with one state."""

    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """[time, batch, input] ([batch, time, input] with `batch_first`, [time, input] unbatched) to all h,
        and h after the last step of every layer and direction. It starts at 0 unless given.
        A PackedSequence gives a PackedSequence, and h after each sequence's own last step."""
        output, (h,) = self._run(input, None if hx is None else [hx])
        return output, h


class GRU(_PlainRNN):
    """Gated recurrent unit: r, z = σ(W x + b + V h + d); n = tanh(W x + b + r (V h + d)); h' = n + z (h - n)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)


class RNN(_PlainRNN):
    """Elman network: h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu for `nonlinearity="relu"`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__(elman_mode(nonlinearity), input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity


def elman_mode(nonlinearity: str) -> str:
    """The mode of an Elman network. Raises ValueError for other nonlinearities than tanh and relu."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return f"RNN_{nonlinearity.upper()}"
