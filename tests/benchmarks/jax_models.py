"""The benchmark's models in JAX: pure functions of a dictionary of parameters, images as NHWC.

Parameter names and values are those of the PyTorch-style models, so outputs agree; filters are stored
as height × width × input × output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.benchmarks.models import GPTSize, parameter_values

__all__ = ["gpt", "lenet", "linear", "lstm", "mlp", "resnet18"]

Model = tuple[dict[str, Any], Callable[..., Any]]
"""Parameters, and `apply(parameters, x, training) -> (result, changed statistics)`."""


def _parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    made = parameter_values(shapes)
    return {n: jnp.asarray(v.transpose(2, 3, 1, 0) if v.ndim == 4 else v) for n, v in made.items()}


def _dense(p: dict[str, Any], name: str, x: Any) -> Any:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def _dense_shapes(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _convolution(x: Any, w: Any, stride: int = 1, pad: int = 0) -> Any:
    return lax.conv_general_dilated(
        x, w, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _max_pool(x: Any, size: int, stride: int, pad: int = 0) -> Any:
    edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), edges)


def linear() -> Model:
    """`Linear(2, 1)`."""
    return _parameters({"weight": (1, 2), "bias": (1,)}), lambda p, x, training: (
        x @ p["weight"].T + p["bias"],
        {},
    )


def mlp() -> Model:
    """784-128-10 with ReLU."""

    def apply(p: dict[str, Any], x: Any, training: bool) -> Any:
        return _dense(p, "2", jax.nn.relu(_dense(p, "0", x))), {}

    return _parameters(_dense_shapes("0", 128, 784) | _dense_shapes("2", 10, 128)), apply


def lenet() -> Model:
    """LeNet on 32×32×3 images."""
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (6, 3, 5, 5), "0.bias": (6,)}
    shapes |= {"3.weight": (16, 6, 5, 5), "3.bias": (16,)}
    for name, o, i in (("7", 120, 400), ("9", 84, 120), ("11", 10, 84)):
        shapes |= _dense_shapes(name, o, i)

    def apply(p: dict[str, Any], x: Any, training: bool) -> Any:
        for name in ("0", "3"):
            x = jax.nn.relu(_convolution(x, p[f"{name}.weight"]) + p[f"{name}.bias"])
            x = _max_pool(x, 2, 2)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return _dense(p, "11", jax.nn.relu(_dense(p, "9", jax.nn.relu(_dense(p, "7", x))))), {}

    return _parameters(shapes), apply


def lstm() -> Model:
    """Two LSTM layers of 50 on batch × steps × 100, then 10 classes from the last step."""
    shapes: dict[str, tuple[int, ...]] = _dense_shapes("head", 10, 50)
    for n, inputs in ((0, 100), (1, 50)):
        shapes |= {f"lstm.weight_ih_l{n}": (200, inputs), f"lstm.weight_hh_l{n}": (200, 50)}
        shapes |= {f"lstm.bias_ih_l{n}": (200,), f"lstm.bias_hh_l{n}": (200,)}

    def layer(p: dict[str, Any], n: int, x: Any) -> Any:
        gates = x @ p[f"lstm.weight_ih_l{n}"].T + (p[f"lstm.bias_ih_l{n}"] + p[f"lstm.bias_hh_l{n}"])
        recurrent = p[f"lstm.weight_hh_l{n}"].T

        def cell(carry: Any, g: Any) -> Any:
            h, c = carry
            i, f, u, o = jnp.split(g + h @ recurrent, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], 50), x.dtype)
        return lax.scan(cell, (zero, zero), gates)[1]

    def apply(p: dict[str, Any], x: Any, training: bool) -> Any:
        x = x.transpose(1, 0, 2)
        return _dense(p, "head", layer(p, 1, layer(p, 0, x))[-1]), {}

    return _parameters(shapes), apply


_BLOCKS = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]  # fmt: skip


def resnet18() -> Model:
    """ResNet-18; running statistics are among the parameters as `*.running_mean` and `*.running_var`."""
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (64, 3, 7, 7)}
    norms = [("1", 64)]
    for n, (i, o, stride) in enumerate(_BLOCKS, 4):
        shapes |= {f"{n}.conv1.weight": (o, i, 3, 3), f"{n}.conv2.weight": (o, o, 3, 3)}
        norms += [(f"{n}.bn1", o), (f"{n}.bn2", o)]
        if stride != 1:
            shapes[f"{n}.down.0.weight"] = (o, i, 1, 1)
            norms.append((f"{n}.down.1", o))
    for name, o in norms:
        shapes |= {f"{name}.weight": (o,), f"{name}.bias": (o,)}
    made = _parameters(shapes | _dense_shapes("14", 1000, 512))
    for name, o in norms:
        made |= {f"{name}.running_mean": jnp.zeros(o), f"{name}.running_var": jnp.ones(o)}

    def apply(p: dict[str, Any], x: Any, training: bool) -> Any:
        changed: dict[str, Any] = {}

        def norm(name: str, v: Any) -> Any:
            mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
            if training:
                count = v.shape[0] * v.shape[1] * v.shape[2]
                batch_mean, batch_var = v.mean((0, 1, 2)), v.var((0, 1, 2))
                changed[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
                changed[f"{name}.running_var"] = 0.9 * var + 0.1 * batch_var * (count / (count - 1))
                mean, var = batch_mean, batch_var
            return (v - mean) * (lax.rsqrt(var + 1e-5) * p[f"{name}.weight"]) + p[f"{name}.bias"]

        x = _max_pool(jax.nn.relu(norm("1", _convolution(x, p["0.weight"], 2, 3))), 3, 2, 1)
        for n, (_, _, stride) in enumerate(_BLOCKS, 4):
            y = jax.nn.relu(norm(f"{n}.bn1", _convolution(x, p[f"{n}.conv1.weight"], stride, 1)))
            y = norm(f"{n}.bn2", _convolution(y, p[f"{n}.conv2.weight"], 1, 1))
            if stride != 1:
                x = norm(f"{n}.down.1", _convolution(x, p[f"{n}.down.0.weight"], stride))
            x = jax.nn.relu(y + x)
        return _dense(p, "14", x.mean((1, 2))), changed

    return made, apply


def gpt(size: GPTSize) -> Model:
    """Decoder-only transformer; logits of all tokens."""
    width = size.width
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (size.vocabulary, width), "position_embedding.weight": (size.context, width),
        "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    if not size.tied:
        shapes["head.weight"] = (size.vocabulary, width)
    for n in range(size.layers):
        for name, o, i in (("qkv", 3, 1), ("out", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            shapes |= _dense_shapes(f"blocks.{n}.{name}", o * width, i * width)
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{n}.{name}.weight": (width,), f"blocks.{n}.{name}.bias": (width,)}

    def norm(p: dict[str, Any], name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scale = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
        return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    def apply(p: dict[str, Any], tokens: Any, training: bool) -> Any:
        b, t = tokens.shape
        mask = np.tril(np.ones((t, t), bool))
        x = p["token_embedding.weight"][tokens] + p["position_embedding.weight"][:t]
        for n in range(size.layers):
            block = f"blocks.{n}"
            qkv = _dense(p, f"{block}.qkv", norm(p, f"{block}.norm1", x))
            q, k, v = (
                s.reshape(b, t, size.heads, -1).transpose(0, 2, 1, 3) for s in jnp.split(qkv, 3, axis=2)
            )
            scores = jnp.where(
                mask, q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // size.heads).astype(np.float32), -jnp.inf
            )
            mixed = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(b, t, width)
            x = x + _dense(p, f"{block}.out", mixed)
            up = jax.nn.gelu(_dense(p, f"{block}.up", norm(p, f"{block}.norm2", x)), approximate=True)
            x = x + _dense(p, f"{block}.down", up)
        return norm(p, "norm", x) @ p["token_embedding.weight" if size.tied else "head.weight"].T, {}

    return _parameters(shapes), apply
