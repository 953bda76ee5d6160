"""Tables as the commands print them."""

import sys
from collections.abc import Iterable, Sequence

PIPE_WIDTH = 1000
"""Columns of a table that no terminal limits: its lines are not folded."""


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; nothing where it has no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=any(header))
    for name in header:
        table.add_column(Text(name), overflow="fold")  # a number that is cut is another one
    for row in rows:
        table.add_row(*map(Text, row))
    if table.row_count:
        console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
        console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(table)
        console.print()
