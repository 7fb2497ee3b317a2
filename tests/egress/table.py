"""The table of attacks: each row is registered under its number with what must come of it."""

import dataclasses
import typing

LEVELS = ("library", "guest")


@dataclasses.dataclass
class Row:
    number: str
    title: str
    expected: str
    function: typing.Callable
    levels: dict  # level -> why it is not looked at there
    is_heavy: bool  # leaves a sandbox behind that is of no use to others


ROWS = {}


def row(number, title, expected, not_at=None, is_heavy=False):
    """Registers a function as a row. `not_at` says for a level why the row is not looked at there."""
    def register(function):
        assert number not in ROWS, number
        ROWS[number] = Row(number, title, expected, function, not_at or {}, is_heavy)
        return function
    return register
