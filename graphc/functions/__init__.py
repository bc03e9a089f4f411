"""User-level functions with PyTorch's names, defaults, type promotion, broadcasting and errors.

Every function checks its arguments, makes promotion and broadcasting explicit, and records ops of
the graph IR. Nothing here computes.
"""
