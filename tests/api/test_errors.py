"""Where PyTorch raises, graphc raises the same kind of exception; each line runs on both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

# fmt: off
ERRORS: list[tuple[str, Callable[[Any], Any]]] = [
    ("add shapes", lambda t: t.ones(2, 3) + t.ones(4)),
    ("add string", lambda t: t.ones(2) + "a"),
    ("bool sub", lambda t: t.ones(2, dtype=t.bool) - t.ones(2, dtype=t.bool)),
    ("bool minus float", lambda t: t.ones(2, dtype=t.bool) - t.ones(2)),
    ("number minus bool", lambda t: 2.5 - t.ones(2, dtype=t.bool)),
    ("tensor minus True", lambda t: t.ones(2) - True),
    ("invert floats", lambda t: ~t.ones(2)),
    ("bitwise_not of floats", lambda t: t.bitwise_not(t.ones(2))),
    ("bitwise_and of floats", lambda t: t.bitwise_and(t.ones(2), t.ones(2))),
    ("floor_divide bools", lambda t: t.ones(2, dtype=t.bool) // t.ones(2, dtype=t.bool)),
    ("remainder of bools", lambda t: t.ones(2, dtype=t.bool) % True),
    ("pow of bools", lambda t: t.ones(2, dtype=t.bool) ** t.ones(2, dtype=t.bool)),
    ("abs of bools", lambda t: t.ones(2, dtype=t.bool).abs()),
    ("floor of bools", lambda t: t.ones(2, dtype=t.bool).floor()),
    ("matmul of bools", lambda t: t.ones(2, 2, dtype=t.bool) @ t.ones(2, 2, dtype=t.bool)),
    ("arange of bools", lambda t: t.arange(3, dtype=t.bool)),
    ("type of another name", lambda t: t.ones(2).type("Numbers")),
    ("view of a leaf in place", lambda t: t.ones(2, 3, requires_grad=True).t_()),
    ("fill_diagonal_ of a vector", lambda t: t.ones(3).fill_diagonal_(1)),
    ("dtype as text", lambda t: t.ones(2, dtype="float32")),
    ("dtype as text in random", lambda t: t.rand(2, dtype="float32")),
    ("int of several", lambda t: int(t.ones(3))),
    ("float of nothing", lambda t: float(t.ones(0))),
    ("requires_grad_ of text", lambda t: t.ones(2).requires_grad_("yes")),
    ("equal with a number", lambda t: t.equal(t.ones(2), 3)),
    ("cross_entropy batch of floats", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.ones(1, 3))),
    ("save beside nothing", lambda t: t.save(t.ones(1), "/nonexistent/directory/file")),
    ("no threads", lambda t: t.set_num_threads(0)),
    ("neg bool", lambda t: -t.ones(2, dtype=t.bool)),
    ("mm shapes", lambda t: t.mm(t.ones(2, 3), t.ones(2, 3))),
    ("mm ranks", lambda t: t.mm(t.ones(2, 3), t.ones(3))),
    ("matmul dtypes", lambda t: t.ones(2, 3) @ t.ones(3, 2, dtype=t.long)),
    ("matmul scalar", lambda t: t.tensor(1.0) @ t.ones(2)),
    ("bmm shapes", lambda t: t.bmm(t.ones(2, 3, 4), t.ones(2, 3, 4))),
    ("dot sizes", lambda t: t.dot(t.ones(2), t.ones(3))),
    ("reshape size", lambda t: t.ones(6).reshape(4)),
    ("view of a transpose", lambda t: t.ones(2, 3).t().view(6)),
    ("view two unknowns", lambda t: t.ones(6).view(-1, -1)),
    ("transpose range", lambda t: t.ones(2, 3).transpose(0, 2)),
    ("permute count", lambda t: t.ones(2, 3).permute(0)),
    ("permute twice", lambda t: t.ones(2, 3).permute(0, 0)),
    ("squeeze range", lambda t: t.ones(2, 3).squeeze(5)),
    ("expand", lambda t: t.ones(2, 3).expand(2, 4)),
    ("expand ranks", lambda t: t.ones(2, 3).expand(3)),
    ("cat shapes", lambda t: t.cat((t.ones(2, 3), t.ones(2, 4)))),
    ("cat empty", lambda t: t.cat(())),
    ("cat ranks", lambda t: t.cat((t.ones(2, 3), t.ones(2)))),
    ("stack shapes", lambda t: t.stack((t.ones(2), t.ones(3)))),
    ("split sizes", lambda t: t.ones(5).split([2, 2])),
    ("narrow", lambda t: t.ones(5).narrow(0, 3, 4)),
    ("select", lambda t: t.ones(5).select(0, 5)),
    ("index out of range", lambda t: t.ones(3)[3]),
    ("index too many", lambda t: t.ones(3)[0, 0]),
    ("index of a scalar", lambda t: t.tensor(1.0)[0]),
    ("index by a float", lambda t: t.ones(3)[1.5]),
    ("index by a float tensor", lambda t: t.ones(3)[t.ones(1)]),
    ("index by a string", lambda t: t.ones(3)["a"]),
    ("index step", lambda t: t.ones(3)[::-1]),
    ("index mask shape", lambda t: t.ones(3)[t.ones(2, dtype=t.bool)]),
    ("index tensor out of range", lambda t: t.ones(3)[t.tensor([3])].sum().item()),
    ("setitem shape", lambda t: t.ones(3).__setitem__(slice(0, 2), t.ones(3))),
    ("sum range", lambda t: t.ones(2).sum(1)),
    ("sum twice", lambda t: t.ones(2, 3).sum((0, 0))),
    ("mean of integers", lambda t: t.ones(2, dtype=t.long).mean()),
    ("var of integers", lambda t: t.ones(2, dtype=t.long).var()),
    ("max of nothing", lambda t: t.ones(0).max()),
    ("argmax of nothing", lambda t: t.ones(0).argmax()),
    ("amax of nothing", lambda t: t.ones(0, 3).amax(0)),
    ("softmax of integers", lambda t: t.ones(2, 3, dtype=t.long).softmax(1)),
    ("softmax range", lambda t: t.ones(2).softmax(1)),
    ("clamp without bounds", lambda t: t.ones(2).clamp()),
    ("integer to a negative power", lambda t: t.ones(2, dtype=t.long) ** -1),
    ("where condition", lambda t: t.where(t.ones(2), 1.0, 0.0)),
    ("masked_fill mask", lambda t: t.ones(2).masked_fill(t.ones(2), 0.0)),
    ("item of several", lambda t: t.ones(2).item()),
    ("bool of several", lambda t: bool(t.ones(2))),
    ("bool of nothing", lambda t: bool(t.ones(0))),
    ("len of a scalar", lambda t: len(t.tensor(1))),
    ("iterate a scalar", lambda t: list(t.tensor(1))),
    ("float as index", lambda t: [1, 2][t.tensor(1.0)]),
    ("tensor ragged", lambda t: t.tensor([[1, 2], [3]])),
    ("tensor of a string", lambda t: t.tensor("a")),
    ("tensor of an object", lambda t: t.tensor(object())),
    ("zeros negative", lambda t: t.zeros(-1)),
    ("zeros of a float", lambda t: t.zeros(1.5)),
    ("arange step 0", lambda t: t.arange(0, 5, 0)),
    ("arange sign", lambda t: t.arange(0, 5, -1)),
    ("randint range", lambda t: t.randint(5, 5, (2,))),
    ("rand of integers", lambda t: t.rand(2, dtype=t.long)),
    ("normal std", lambda t: t.normal(0.0, -1.0, (2,))),
    ("from_numpy of a list", lambda t: t.from_numpy([1])),
    ("from_numpy of strings", lambda t: t.from_numpy(np.array(["a"]))),
    ("in place dtype", lambda t: t.ones(2, dtype=t.long).add_(1.5)),
    ("in place shape", lambda t: t.ones(2).add_(t.ones(3, 2))),
    ("in place leaf", lambda t: t.ones(2, requires_grad=True).add_(1)),
    ("in place view of a leaf", lambda t: t.ones(2, requires_grad=True)[0].zero_()),
    ("requires_grad of integers", lambda t: t.ones(2, dtype=t.long).requires_grad_()),
    ("numpy of a leaf", lambda t: t.ones(2, requires_grad=True).numpy()),
    ("backward of several", lambda t: (t.ones(2, requires_grad=True) * 2).backward()),
    ("backward without grad", lambda t: t.ones(()).backward()),
    ("backward twice", lambda t: _twice(t)),
    ("deepcopy of a non-leaf", lambda t: __import__("copy").deepcopy(t.ones(2, requires_grad=True) * 2)),
    ("device", lambda t: t.ones(2, device="nonsense")),
    ("gather dtype", lambda t: t.ones(2, 2).gather(0, t.ones(1, 1))),
    ("gather size", lambda t: t.ones(2, 2).gather(0, t.zeros(1, 3, dtype=t.long))),
    ("gather range", lambda t: t.ones(2, 2).gather(0, t.full((1, 1), 2)).sum().item()),
    ("index_select range", lambda t: t.ones(2).index_select(0, t.tensor([2])).sum().item()),
    ("linear shapes", lambda t: t.nn.Linear(3, 2)(t.ones(2, 4))),
    ("linear of integers", lambda t: t.nn.Linear(3, 2)(t.ones(2, 3, dtype=t.long))),
    ("linear of float64", lambda t: t.nn.Linear(3, 2)(t.ones(2, 3, dtype=t.float64))),
    ("linear arguments", lambda t: t.nn.Linear(3)),
    ("linear called with nothing", lambda t: t.nn.Linear(3, 2)()),
    ("conv2d channels", lambda t: t.nn.Conv2d(3, 2, 3)(t.ones(1, 4, 5, 5))),
    ("conv2d rank", lambda t: t.nn.Conv2d(3, 2, 3)(t.ones(3, 5))),
    ("conv2d kernel", lambda t: t.nn.Conv2d(3, 2, 7)(t.ones(1, 3, 5, 5))),
    ("conv2d groups", lambda t: t.nn.Conv2d(3, 2, 3, groups=2)),
    ("conv2d padding", lambda t: t.nn.Conv2d(3, 2, 3, padding="some")),
    ("max_pool2d too small", lambda t: t.nn.MaxPool2d(4)(t.ones(1, 1, 2, 2))),
    ("max_pool2d padding", lambda t: t.nn.MaxPool2d(2, padding=2)(t.ones(1, 1, 4, 4))),
    ("batch_norm rank", lambda t: t.nn.BatchNorm2d(3)(t.ones(2, 3))),
    ("batch_norm channels", lambda t: t.nn.BatchNorm1d(3)(t.ones(2, 4))),
    ("batch_norm of one", lambda t: t.nn.BatchNorm1d(3)(t.ones(1, 3))),
    ("layer_norm shape", lambda t: t.nn.LayerNorm(3)(t.ones(2, 4))),
    ("dropout p", lambda t: t.nn.Dropout(1.5)),
    ("embedding of floats", lambda t: t.nn.Embedding(3, 2)(t.ones(2))),
    ("embedding range", lambda t: t.nn.Embedding(3, 2)(t.tensor([3])).sum().item()),
    ("embedding padding", lambda t: t.nn.Embedding(3, 2, padding_idx=5)),
    ("cross_entropy batch", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.zeros(3, dtype=t.long))),
    ("cross_entropy of floats", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.zeros(2))),
    ("cross_entropy integer probabilities", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.zeros(2, 3, dtype=t.long))),
    ("cross_entropy target out of range", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.tensor([0, 3])).item()),
    ("cross_entropy reduction", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.zeros(2, dtype=t.long), reduction="all")),
    ("cross_entropy weight", lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.zeros(2, dtype=t.long), weight=t.ones(2))),
    ("bce_with_logits sizes", lambda t: t.nn.functional.binary_cross_entropy_with_logits(t.ones(2), t.ones(3))),
    ("mse_loss sizes", lambda t: t.nn.functional.mse_loss(t.ones(2), t.ones(3))),
    ("one_hot of floats", lambda t: t.nn.functional.one_hot(t.ones(2))),
    ("pad length", lambda t: t.nn.functional.pad(t.ones(2), (1,))),
    ("module without forward", lambda t: t.nn.Module()(1)),
    ("module attribute", lambda t: t.nn.Linear(2, 2).nothing),
    ("module parameter of a tensor", lambda t: setattr(t.nn.Linear(2, 2), "weight", t.ones(2, 2))),
    ("module before init", lambda t: _early(t)),
    ("register_parameter name", lambda t: t.nn.Module().register_parameter("a.b", None)),
    ("register_parameter type", lambda t: t.nn.Module().register_parameter("a", t.ones(2))),
    ("register_buffer twice", lambda t: _buffer_twice(t)),
    ("add_module type", lambda t: t.nn.Module().add_module("a", 3)),
    ("sequential index", lambda t: t.nn.Sequential(t.nn.ReLU())[3]),
    ("get_submodule", lambda t: t.nn.Sequential().get_submodule("x")),
    ("load_state_dict missing", lambda t: t.nn.Linear(2, 2).load_state_dict({})),
    ("load_state_dict type", lambda t: t.nn.Linear(2, 2).load_state_dict([])),
    ("load_state_dict shape", lambda t: t.nn.Linear(2, 2).load_state_dict(t.nn.Linear(2, 3).state_dict())),
    ("optimizer of nothing", lambda t: t.optim.SGD([], lr=0.1)),
    ("optimizer of a tensor", lambda t: t.optim.SGD(t.ones(2), lr=0.1)),
    ("optimizer of numbers", lambda t: t.optim.SGD([1.0], lr=0.1)),
    ("optimizer of a non-leaf", lambda t: t.optim.SGD([t.ones(2, requires_grad=True) * 2], lr=0.1)),
    ("optimizer lr", lambda t: t.optim.SGD([t.ones(2, requires_grad=True)], lr=-1)),
    ("optimizer nesterov", lambda t: t.optim.SGD([t.ones(2, requires_grad=True)], lr=1, nesterov=True)),
    ("optimizer betas", lambda t: t.optim.Adam([t.ones(2, requires_grad=True)], betas=(1.0, 0.9))),
    ("optimizer twice", lambda t: _same_parameter(t)),
    ("optimizer state of another", lambda t: _other_state(t)),
    ("data loader batch size", lambda t: t.utils.data.DataLoader([1], batch_size=0)),
    ("data loader sampler", lambda t: t.utils.data.DataLoader([1], shuffle=True, sampler=[0])),
    ("tensor dataset sizes", lambda t: t.utils.data.TensorDataset(t.ones(2), t.ones(3))),
    ("random_split lengths", lambda t: t.utils.data.random_split([1, 2, 3], [1, 1])),
    ("finfo of integers", lambda t: t.finfo(t.int32)),
    ("iinfo of floats", lambda t: t.iinfo(t.float32)),
    ("kaiming of a vector", lambda t: t.nn.init.kaiming_uniform_(t.ones(3))),
    ("gain", lambda t: t.nn.init.calculate_gain("nonsense")),
    ("default dtype", lambda t: t.set_default_dtype(t.int32)),
    ("manual_seed type", lambda t: t.manual_seed("a")),
    ("load nothing", lambda t: t.load("/nonexistent/file")),
    ("chunk", lambda t: t.ones(3).chunk(0)),
    ("flatten order", lambda t: t.ones(2, 3, 4).flatten(2, 1)),
    ("t of rank 3", lambda t: t.ones(2, 3, 4).t()),
    ("diagonal", lambda t: t.ones(2, 3).diagonal(0, 1, 1)),
    ("meshgrid", lambda t: t.meshgrid(t.ones(2), t.ones(2), indexing="zz")),
    ("round trip of infinity", lambda t: t.arange(0, math.inf)),
]
# fmt: on


def _twice(t: Any) -> None:
    loss = (t.ones(2, requires_grad=True).exp()).sum()
    loss.backward()
    loss.backward()


def _early(t: Any) -> None:
    class Early(t.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            self.weight = t.nn.Parameter(t.ones(2))

    Early()


def _buffer_twice(t: Any) -> None:
    module = t.nn.Linear(2, 2)
    module.register_buffer("weight", t.ones(2))


def _same_parameter(t: Any) -> None:
    p = t.ones(2, requires_grad=True)
    t.optim.SGD([{"params": [p]}, {"params": [p]}], lr=0.1)


def _other_state(t: Any) -> None:
    one, two = ([t.ones(2, requires_grad=True) for _ in range(n)] for n in (1, 2))
    t.optim.SGD(one, lr=0.1).load_state_dict(t.optim.SGD(two, lr=0.1).state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [c for _, c in ERRORS], ids=[n for n, _ in ERRORS])
def test_error_kind(call: Callable[[Any], Any]) -> None:
    with pytest.raises(Exception) as theirs:
        call(torch)
    with pytest.raises(theirs.type):
        call(graphc)
