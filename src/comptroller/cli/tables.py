"""Tables that fit their terminal: no name is cut or dropped, no figure loses a digit.

What is too wide is told more briefly, one step after the other: closer together; with short units,
the first digits of long ids and models without their provider where that tells them apart; without
the columns that say nothing in any row, from the right; at last with a paragraph for each record,
which says everything.
"""

import re
from collections.abc import Iterator, Sequence

import attrs
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

NOTHING = "-"
"""What stands where there is nothing to say."""

_PROSE = 24  # columns that a text needs at least to be read well
_ROOMY, _TIGHT = 1, 0  # padding on either side of a cell
_ID = re.compile(r"\b[0-9a-f]{32}\b")
_ID_LEAST = 8
_UNIT = re.compile(r"\b(risk points?|tokens?)\b")
_SHORT_UNITS = {"risk points": "pts", "risk point": "pt", "tokens": "tok", "token": "tok"}


@attrs.define
class _Row:
    cells: list[Text]
    style: str = ""
    last: bool = False
    """Whether a section ends with it."""


@attrs.frozen
class _Column:
    """A column as it is drawn: its head and its cells, which are never folded unless `prose`."""

    head: str
    cells: list[Text]
    right: bool = False
    prose: bool = False
    name: bool = False

    @property
    def least(self) -> int:
        """The fewest columns of the terminal in which it is whole."""
        if not self.prose:
            return self.natural
        words = [word for cell in self.cells for word in cell.plain.split()]
        longest = max(map(cell_len, (self.head, *words)))
        return min(self.natural, max(longest, _PROSE))

    @property
    def natural(self) -> int:
        """Those that it takes where there is room."""
        lines = [line for cell in self.cells for line in cell.plain.splitlines()]
        return max(map(cell_len, (self.head, *lines)))

    @property
    def empty(self) -> bool:
        """Whether it says nothing in any row."""
        return not self.name and all(cell.plain in ("", NOTHING) for cell in self.cells)


class Table:
    """Rows under heads. A renderable of rich.

    Args:
        heads: of all columns; those that are in neither of the others hold names.
        amounts: those that hold figures, which stand on the right.
        prose: those that hold texts, which may be folded between words.
        models: those that hold names of models, which are known without their provider's.
    """

    def __init__(
        self,
        *heads: str,
        amounts: Sequence[str] = (),
        prose: Sequence[str] = (),
        models: Sequence[str] = (),
    ) -> None:
        self._heads, self._amounts, self._prose, self._models = heads, amounts, prose, models
        self._rows: list[_Row] = []

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """Add a row: a cell for each head."""
        texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        self._rows.append(_Row(texts, style))

    def end_section(self) -> None:
        """Draw a line after the last row."""
        self._rows[-1].last = True

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the fullest form that fits."""
        del console
        whole = self._columns()
        brief = [attrs.evolve(column, cells=self._brief(column)) for column in whole]
        forms = [(whole, _ROOMY), *((some, _TIGHT) for some in (whole, brief, *_fewer(brief)))]
        for columns, padding in forms:
            if _width(columns, padding) <= options.max_width:
                yield self._drawn(columns, padding, options.max_width)
                shown = {column.head for column in columns}
                if hidden := [column.head for column in whole if column.head not in shown]:
                    count = f"{len(hidden)} column{'' if len(hidden) == 1 else 's'}"
                    names = ", ".join(hidden)
                    yield Text(f"{count} hidden: {names}; --wide or a pipe shows all", "dim")
                return
        for number in range(len(self._rows)):
            yield _paragraph(whole, number, options.max_width)

    def _brief(self, column: _Column) -> list[Text]:
        cells = _brief(column.cells)
        if column.head in self._models:
            bare = [Text(cell.plain.partition(":")[2] or cell.plain, cell.style) for cell in cells]
            if len({cell.plain for cell in bare}) == len({cell.plain for cell in cells}):
                return bare
        return cells

    def _columns(self) -> list[_Column]:
        return [
            _Column(
                head,
                [row.cells[number] for row in self._rows],
                right=head in self._amounts,
                prose=head in self._prose,
                name=head not in (*self._amounts, *self._prose),
            )
            for number, head in enumerate(self._heads)
        ]

    def _drawn(self, columns: Sequence[_Column], padding: int, width: int) -> Drawn:
        spare = width - _width(columns, padding)
        drawn = Drawn(
            box=box.SIMPLE_HEAD,
            padding=(0, padding),
            pad_edge=False,
            show_edge=padding != _TIGHT,
            header_style="bold",
        )
        for column in columns:
            given = min(column.natural, column.least + spare)
            spare -= given - column.least
            drawn.add_column(
                Text(column.head),
                justify="right" if column.right else "left",
                width=given,
                no_wrap=not column.prose,
            )
        for number, row in enumerate(self._rows):
            drawn.add_row(
                *(column.cells[number] for column in columns), style=row.style, end_section=row.last
            )
        return drawn


def _width(columns: Sequence[_Column], padding: int) -> int:
    """Of the table with each column as narrow as it may be; edges are drawn where there is room."""
    gaps = (len(columns) - 1) * (2 * padding + 1)
    return sum(column.least for column in columns) + gaps + (2 if padding else 0)


def _fewer(columns: Sequence[_Column]) -> Iterator[list[_Column]]:
    """Without one more of the columns that say nothing, from the right."""
    left = list(columns)
    for column in reversed(columns):
        if column.empty:
            left.remove(column)
            yield left.copy()


def _brief(cells: Sequence[Text]) -> list[Text]:
    """Long ids by as many digits as tell them apart, units by their usual abbreviations."""
    ids = {found for cell in cells for found in _ID.findall(cell.plain)}
    digits = _ID_LEAST
    while len({each[:digits] for each in ids}) < len(ids):
        digits += 1

    def brief(text: str) -> str:
        shorter = _ID.sub(lambda found: found[0][:digits], text)
        return _UNIT.sub(lambda found: _SHORT_UNITS[found[0]], shorter)

    return [Text(brief(cell.plain), cell.style) for cell in cells]


def _paragraph(columns: Sequence[_Column], number: int, width: int) -> RenderableType:
    """One record: its names, and below them what there is to say. Nothing is broken but prose."""
    names: list[Text] = []
    facts: list[Text] = []
    for column in columns:
        value = column.cells[number]
        if column.name or value.plain not in ("", NOTHING):
            said = Text(", ").join(value.split("\n", allow_blank=False))
            (names if column.name else facts).append(Text.assemble((column.head, "dim"), " ", said))
    # a name that is longer than the terminal is left to it: it stays one word where it is copied
    heads = [Text.assemble(line, overflow="ignore") for line in _filled(names, "", width)]
    return Group(*heads, *_filled(facts, "  ", width), "")


def _filled(pieces: Sequence[Text], indent: str, width: int) -> Iterator[Text]:
    """Lines of as many whole pieces as fit."""
    line = Text()
    for piece in pieces:
        if line and line.cell_len + len("  ") + piece.cell_len > width:
            yield line
            line = Text()
        line = Text.assemble(line, "  ", piece) if line else Text.assemble(indent, piece)
    if line:
        yield line
