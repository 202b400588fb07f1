"""The SQL of one page of a sorted list: which rows come after the last one, which have the text that is asked for.

A page goes on at a row, not at a number: rows that come and go meanwhile neither repeat nor hide others, and the last
page costs what the first does. For the other files of `db` alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Generic, TypeVar

Sort = TypeVar("Sort", bound=str)
_SPECIAL = re.compile(r"[\\%_]")  # to LIKE


@dataclass(frozen=True, slots=True)
class Page(Generic[Sort]):
    """At most `limit` rows in an order, after the row with this value and name (None: from the beginning).

    `text` is what names must have in them, whatever the case of its letters; empty for all.
    """

    sort: Sort
    limit: int
    descending: bool = False
    after: tuple[str | int, str] | None = None
    text: str = ""

    def conditions(self, column: str, name: str) -> str:
        """What WHERE says besides; begins with AND, or is empty."""
        found = ""
        if self.after is not None:
            found = f" AND ({column}, {name}) {'<' if self.descending else '>'} (:after, :after_name)"
        return found + (containing(name) if self.text else "")

    def order(self, column: str, name: str) -> str:
        """What ORDER BY says; rows that are alike are told apart by their names."""
        direction = "DESC" if self.descending else "ASC"
        return f"{column} {direction}, {name} {direction}"

    def parameters(self) -> dict[str, object]:
        """For `conditions` and LIMIT."""
        after, after_name = self.after or ("", "")
        return {"after": after, "after_name": after_name, "pattern": pattern(self.text), "limit": self.limit}


def containing(name: str) -> str:
    """The condition that a name has the text of `:pattern` in it."""
    return f" AND lower({name}) LIKE :pattern ESCAPE '\\'"


def pattern(text: str) -> str:
    """What LIKE wants for names with `text` in them."""
    return "%" + _SPECIAL.sub(r"\\\g<0>", text.lower()) + "%"
