"""LLVM backend."""
