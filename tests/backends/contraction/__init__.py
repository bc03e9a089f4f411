"""Tests of the contraction engine."""
