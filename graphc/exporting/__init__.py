"""Shipping: compiled inference and training as shared libraries with a plain C interface."""

from graphc.exporting.export import ExportedLibrary, export_library
from graphc.exporting.library import Library, load_library

__all__ = ["ExportedLibrary", "Library", "export_library", "load_library"]
