"""Scheduling: every loop of a kernel gets a role that is legal for the target."""

from graphc.passes.schedule.apply import schedule
from graphc.passes.schedule.verify import verify_schedule

__all__ = ["schedule", "verify_schedule"]
