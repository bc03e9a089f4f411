"""Module behaviour beyond numbers: registration, walks, hooks, modes, state dicts."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

import graphc as torch
from graphc import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.Sequential(OrderedDict(act=nn.ReLU(), last=nn.Linear(4, 2, bias=False)))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("hidden", torch.ones(1), persistent=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Any) -> Any:
        return self.rest(self.first(x - self.mean)) * self.scale


def test_names() -> None:
    net = Net()
    assert [n for n, _ in net.named_parameters()] == [
        "scale",
        "first.weight",
        "first.bias",
        "rest.last.weight",
    ]
    assert [n for n, _ in net.named_buffers()] == ["mean", "hidden"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "rest", "rest.act", "rest.last"]
    assert [n for n, _ in net.named_children()] == ["first", "rest"]
    assert list(net.state_dict()) == ["scale", "mean", "first.weight", "first.bias", "rest.last.weight"]
    assert net.get_parameter("rest.last.weight") is net.rest.last.weight
    assert net.get_submodule("rest.act") is net.rest[0]
    assert net.get_buffer("mean") is net.mean


def test_shared_parameters_are_listed_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_replacing_and_deleting() -> None:
    net = Net()
    net.first = nn.Identity()
    assert "first.weight" not in net.state_dict()
    del net.scale
    assert not hasattr(net, "scale")
    net.scale = 2.0
    assert net.scale == 2.0
    net.first.weight = nn.Parameter(torch.ones(1))
    net.first.weight = None
    assert list(net.first.parameters()) == []


def test_modes_and_apply() -> None:
    net = Net()
    assert net.eval() is net and not net.rest.act.training
    net.train()
    assert net.rest.act.training
    seen: list[str] = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "Linear", "Sequential", "Net"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_to_dtype_keeps_parameters() -> None:
    net = Net()
    before = net.first.weight
    assert net.double() is net
    assert (
        net.first.weight is before
        and before.dtype is torch.float64
        and before.requires_grad
        and before.is_leaf
    )
    assert net.mean.dtype is torch.float64
    assert net(torch.ones(2, 3, dtype=torch.float64)).dtype is torch.float64
    net.float()
    net(torch.ones(2, 3)).sum().backward()
    assert before.grad is not None and before.grad.dtype is torch.float32


def test_hooks() -> None:
    net = nn.Linear(2, 2)
    seen: list[Any] = []
    before = net.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    after = net.register_forward_hook(lambda m, args, out: seen.append((args[0].tolist(), out.shape)))
    first = net.register_forward_pre_hook(lambda m, args: seen.append("first"), prepend=True)
    x = torch.ones(1, 2)
    doubled = net(x)
    assert seen == ["first", ([[2.0, 2.0]], (1, 2))]
    first.remove()
    after.remove()
    before.remove()
    plain = net(x)
    assert seen[2:] == []
    assert torch.allclose(doubled - net.bias, (plain - net.bias) * 2)
    with net.register_forward_hook(lambda m, args, kwargs, out: out + 1, with_kwargs=True):
        assert torch.allclose(net(x), plain + 1)
    assert torch.allclose(net(x), plain)


def test_load_state_dict() -> None:
    source, target = Net(), Net()
    result = target.load_state_dict(source.state_dict())
    assert repr(result) == "<All keys matched successfully>"
    assert target.first.weight.tolist() == source.first.weight.tolist()
    state = source.state_dict()
    state["extra"] = torch.ones(1)
    del state["scale"]
    with pytest.raises(RuntimeError) as found:
        target.load_state_dict(state)
    assert str(found.value) == (
        'Error(s) in loading state_dict for Net:\n\tUnexpected key(s) in state_dict: "extra". \n\t'
        'Missing key(s) in state_dict: "scale". '
    )
    assert target.load_state_dict(state, strict=False) == (["scale"], ["extra"])
    assigned = {k: nn.Parameter(v * 2) if "weight" in k else v for k, v in source.state_dict().items()}
    target.load_state_dict(assigned, assign=True)
    assert target.first.weight is assigned["first.weight"]


def test_state_dict_shares_memory_with_the_module() -> None:
    net = nn.Linear(2, 2)
    state = net.state_dict()
    with torch.no_grad():
        net.weight.fill_(3)
    assert state["weight"].tolist() == [[3, 3], [3, 3]]


def test_state_dict_text_matches() -> None:
    theirs = pytest.importorskip("torch").nn
    build = [
        lambda n: n.Sequential(n.Conv2d(1, 2, 3), n.BatchNorm2d(2), n.ReLU(), n.Flatten(), n.Linear(8, 2)),
        lambda n: n.ModuleList([n.Linear(1, 1), n.Linear(1, 1), n.ReLU(), n.ModuleList()]),
        lambda n: n.ModuleDict({"a": n.Linear(1, 1), "b": n.Sequential()}),
        lambda n: n.Sequential(
            n.ReLU(inplace=True), n.LeakyReLU(0.1, True), n.Dropout(0.2), n.Softmax(1), n.Embedding(3, 4, 1)
        ),
        lambda n: n.Sequential(n.CrossEntropyLoss(), n.MSELoss(), n.BCEWithLogitsLoss(), n.NLLLoss()),
        lambda n: n.Sequential(
            n.AvgPool2d(2), n.MaxPool2d(2, ceil_mode=True), n.Identity(), n.Unflatten(1, (2, 3)), n.Hardtanh()
        ),
    ]
    for make in build:
        ours, other = make(nn), make(theirs)
        assert repr(ours) == repr(other)
        assert list(ours.state_dict()) == list(other.state_dict())


def test_containers() -> None:
    items = nn.ModuleList([nn.Linear(1, 1)])
    items.append(nn.ReLU())
    items.extend([nn.Tanh(), nn.Sigmoid()])
    items.insert(1, nn.Identity())
    assert [type(m).__name__ for m in items] == ["Linear", "Identity", "ReLU", "Tanh", "Sigmoid"]
    del items[0]
    assert len(items) == 4 and isinstance(items[-1], nn.Sigmoid) and len(items[1:3]) == 2
    pipeline = nn.Sequential(nn.ReLU(), nn.Tanh())
    pipeline.append(nn.Sigmoid())
    assert len(pipeline + nn.Sequential(nn.Identity())) == 4 and isinstance(pipeline[-1], nn.Sigmoid)
    table = nn.ModuleDict({"x": nn.ReLU()})
    table["y"] = nn.Tanh()
    assert list(table) == ["x", "y"] and "x" in table and isinstance(table.pop("x"), nn.ReLU)
    weights = nn.ParameterList([torch.ones(2), nn.Parameter(torch.zeros(1))])
    assert len(list(weights.parameters())) == 2 and weights[0].requires_grad
    named = nn.ParameterDict({"w": torch.ones(1)})
    assert [n for n, _ in named.named_parameters()] == ["w"]


def test_zero_grad() -> None:
    net = nn.Linear(2, 1)
    net(torch.ones(1, 2)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.weight.grad.tolist() == [[0, 0]]
    net.zero_grad()
    assert net.weight.grad is None


def test_batch_norm_statistics_follow_the_batches() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    assert norm.num_batches_tracked.item() == 1
    assert torch.allclose(norm.running_mean, torch.tensor([0.2, 2.0]))
    norm.reset_running_stats()
    assert norm.running_var.tolist() == [1, 1]
