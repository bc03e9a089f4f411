"""Control flow: functions that are recorded once and run as loops and branches inside of the program."""

from graphc.functions.control.branches import cond
from graphc.functions.control.scan import map, scan
from graphc.functions.control.whiles import fori_loop, while_loop

__all__ = ["cond", "fori_loop", "map", "scan", "while_loop"]
