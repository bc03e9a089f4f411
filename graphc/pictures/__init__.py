"""Pictures of every stage: DOT text always, SVG and PNG where graphviz's `dot` is installed."""

from graphc.pictures.visualize import visualize

__all__ = ["visualize"]
