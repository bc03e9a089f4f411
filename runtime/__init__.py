"""Run-time."""
