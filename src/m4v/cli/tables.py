"""Tables on standard output that stay whole in pipes and narrow windows."""

from collections.abc import Sequence


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A pipe or a narrow window must not cut numbers off: long lines wrap instead.
    table.min_width = len(title)
    Console(width=max(Console(width=1000).measure(table).maximum, len(title))).print(table)
