"""Tracing and compiling: from functions and recordings to executables."""
