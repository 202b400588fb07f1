"""A disk that keeps as little as POSIX lets it: what a power loss may leave of operations, by the fsyncs among them.

A file's bytes and size are durable at its fsync or fdatasync, its mode at its fsync; names are durable at the fsync of
their folder, new folders included. Everything else may have happened or not, each on its own: bytes may be absent,
zero or half there. Alone what changed one name goes in order, and a rename is one step.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.interception import Operation


@dataclass(eq=False, slots=True)
class File:
    """What surely lasts of a file, and the changes that may."""

    content: bytes = b""
    mode: int = 0o644
    pending: list[Operation] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Folder:
    """Names that surely last, and names as programs see them."""

    durable: dict[str, Node] = field(default_factory=dict)
    live: dict[str, Node] = field(default_factory=dict)


Node = File | Folder
Name = tuple[Folder, str]


@dataclass(eq=False, slots=True)
class Step:
    """A change of names: `gone` no longer names the node, `now` does; a rename has both."""

    node: Node
    gone: Name | None = None
    now: Name | None = None

    @property
    def names(self) -> list[tuple[int, str]]:
        return [(id(folder), name) for folder, name in filter(None, (self.gone, self.now))]


# What becomes of a change of a file's bytes.
DONE, ABSENT, ZERO, HALF = "done", "absent", "zero", "half"


class Disk:
    """Told of operations in their order; at any time `crash` writes what a power loss may leave into a folder."""

    def __init__(self, root: str) -> None:
        self._prefix = f"{root}/"
        self._root = Folder()
        self._steps: list[Step] = []

    def apply(self, operation: Operation) -> None:
        """Let it happen."""
        getattr(self, f"_{operation.kind}")(operation)

    def crash(self, folder: Path, keep: Callable[[Step | Operation], str]) -> None:
        """Write into the empty `folder` what is left; `keep` says DONE … HALF of each change that is not durable."""
        dropped: set[tuple[int, str]] = set()
        names: dict[int, dict[str, Node]] = {}
        for step in self._steps:
            if keep(step) != DONE or dropped.intersection(step.names):
                dropped.update(step.names)  # what came later to these names has not happened either
            else:
                self._happen(step, lambda found: names.setdefault(id(found), dict(found.durable)))
        _write_out(self._root, folder, names, keep)

    @property
    def unsure(self) -> list[Step | Operation]:
        """Every change that may be lost."""
        return [*self._steps, *(change for file in self._files() for change in file.pending)]

    def _files(self) -> Iterator[File]:
        """Each file that a name may lead to."""
        seen: set[int] = set()
        pending: list[Node] = [self._root, *(step.node for step in self._steps)]
        while pending:
            node = pending.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, File):
                yield node
            else:
                pending += [*node.durable.values(), *node.live.values()]

    def _place(self, path: str) -> Name:
        """The folder and name of a path."""
        folder = self._root
        *above, name = path.removeprefix(self._prefix).split("/")
        for part in above:
            found = folder.live[part]
            assert isinstance(found, Folder), path
            folder = found
        return folder, name

    def _find(self, path: str) -> Node | None:
        if path == self._prefix[:-1]:
            return self._root
        try:
            folder, name = self._place(path)
        except KeyError:
            return None
        return folder.live.get(name)

    def _create(self, operation: Operation) -> None:
        self._add(operation.path, File(mode=operation.number & ~0o22))

    def _mkdir(self, operation: Operation) -> None:
        self._add(operation.path, Folder())

    def _add(self, path: str, node: Node) -> None:
        folder, name = self._place(path)
        folder.live[name] = node
        self._steps.append(Step(node, now=(folder, name)))

    def _unlink(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        self._steps.append(Step(folder.live.pop(name), gone=(folder, name)))

    _rmdir = _unlink

    def _rename(self, operation: Operation) -> None:
        source, target = self._place(operation.path), self._place(operation.target)
        node = source[0].live.pop(source[1])
        target[0].live[target[1]] = node
        self._steps.append(Step(node, gone=source, now=target))

    def _change(self, operation: Operation) -> None:
        found = self._find(operation.path)
        if isinstance(found, File):  # else it has no name any more, and nobody will read it again
            found.pending.append(operation)

    _write = _truncate = _chmod = _change

    def _sync(self, operation: Operation) -> None:
        found = self._find(operation.path)
        if isinstance(found, Folder):
            self._sync_folder(found)
        elif found is not None:
            modes = [change for change in found.pending if change.kind == "chmod" and operation.data_only]
            found.content, found.mode = _content(found, lambda change: ABSENT if change in modes else DONE)
            found.pending = modes

    def _sync_folder(self, folder: Folder) -> None:
        """Every step in the folder, and what came before it to the same names: a journal has an order."""
        lasting: set[tuple[int, str]] = set()
        chosen: list[Step] = []
        for step in reversed(self._steps):
            if any(place[0] is folder for place in (step.gone, step.now) if place) or lasting.intersection(step.names):
                chosen.append(step)
                lasting.update(step.names)
        for step in reversed(chosen):
            self._happen(step, lambda found: found.durable)
        self._steps = [step for step in self._steps if step not in chosen]

    @staticmethod
    def _happen(step: Step, names_of: Callable[[Folder], dict[str, Node]]) -> None:
        if step.gone is not None:
            names = names_of(step.gone[0])
            if names.get(step.gone[1]) is step.node:
                del names[step.gone[1]]
        if step.now is not None:
            names_of(step.now[0])[step.now[1]] = step.node


def _content(file: File, keep: Callable[[Operation], str]) -> tuple[bytes, int]:
    """The bytes and the mode of a file, if that is kept of its changes."""
    content, mode = bytearray(file.content), file.mode
    for change in file.pending:
        kept = keep(change)
        if kept == ABSENT:
            continue
        if change.kind == "chmod":
            mode = change.number
        elif change.kind == "truncate":
            content = content[: change.number].ljust(change.number, b"\0")
        else:
            length = len(change.payload)
            end = change.number + length
            content = content.ljust(change.number, b"\0")
            if kept == ZERO:  # the size came to the disk, the bytes did not
                content = content.ljust(end, b"\0")
            else:
                part = change.payload if kept == DONE else change.payload[: length // 2]
                content[change.number : change.number + len(part)] = part
    return bytes(content), mode


def _write_out(
    folder: Folder, where: Path, names: dict[int, dict[str, Node]], keep: Callable[[Step | Operation], str]
) -> None:
    for name, node in names.get(id(folder), folder.durable).items():
        if isinstance(node, Folder):
            (where / name).mkdir()
            _write_out(node, where / name, names, keep)
        else:
            content, mode = _content(node, keep)
            with open(where / name, "xb", opener=lambda path, flags, mode=mode: os.open(path, flags, mode)) as file:
                file.write(content)


def nothing(_change: Step | Operation) -> str:
    """Only what was fsynced is left."""
    return ABSENT


def everything(_change: Step | Operation) -> str:
    """As if the disk had been told to write all."""
    return DONE


def all_but(lost: Step | Operation, how: str) -> Callable[[Step | Operation], str]:
    """One change did not come to the disk."""
    return lambda change: how if change is lost else DONE


def only(kept: Step | Operation) -> Callable[[Step | Operation], str]:
    """One change came to the disk, of all that were not fsynced."""
    return lambda change: DONE if change is kept else ABSENT


def at_random(rng: random.Random) -> Callable[[Step | Operation], str]:
    """Each on its own. The same change gets the same answer."""
    share = rng.random()
    chosen: dict[int, str] = {}

    def keep(change: Step | Operation) -> str:
        if id(change) not in chosen:
            chosen[id(change)] = DONE if rng.random() < share else rng.choice((ABSENT, ZERO, HALF))
        return chosen[id(change)]

    return keep
