"""Optimisers and learning-rate schedules, as in PyTorch."""

from graphc.optim import lr_scheduler
from graphc.optim.adam import Adam, AdamW
from graphc.optim.optimizer import Optimizer
from graphc.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
