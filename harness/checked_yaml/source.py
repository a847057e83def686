"""Read one YAML 1.2 document as plain data, with the place of every key. Nothing in it can run code
or grow without bound.

This reads the parser's events, not its objects: they have line and column and still contain
duplicate keys. Plain text is interpreted here, by the core schema of YAML 1.2 (`yes` is text,
`0o17` is a number, dates are text).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from harness.checked_yaml.problems import InvalidYamlError, Path, Place, Problem

Data: TypeAlias = "bool | int | float | str | list[Data] | dict[str, Data] | None"

MAX_NODES: Final = 20_000
"""Values in one file. Each use of an anchor counts, which bounds aliases of aliases."""
MAX_DEPTH: Final = 40
"""Nesting of one file; the deepest valid profile has 6 levels."""

_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCT_OR_HEX: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_LONGEST_NUMBER: Final = 40
"""Digits. Python refuses to convert thousands of them."""
_UNQUOTED: Final = re.compile(r"(^|[-{\[]|[:,]\s)\s*[@`%*&!|>]")
"""Text, or a key, with a first character that has a meaning in YAML."""
_TAG: Final = "tag:yaml.org,2002:"


@dataclass(slots=True)
class Source:
    """A document as plain data.

    Attributes:
        name: its name in messages.
        places: place of each path's key or list item.
        problems: errors that leave the rest readable (duplicate keys).
    """

    name: str
    data: Data
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """The place of a path, or of the nearest section above it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(self.name, 1, 1)


def read(text: str, name: str, *, lines: bool = True) -> Source:
    """Read one document. `name` is for messages; without `lines`, as for the value of a `--set`,
    places have no lines and columns.

    Raises:
        InvalidYamlError: not YAML, more than one document, too large or too deep.
    """
    reader = _Reader(name, lines=lines)
    try:
        return reader.document(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        what = " ".join(filter(None, (error.problem, error.context))) or "cannot be read"
        place, what = reader.at(line, column), f"is not valid YAML: {what}"
        raise reader.error(place, what, _syntax_fix(text, line)) from error
    except (
        YAMLError,
        ValueError,
        OverflowError,
        LookupError,
        AttributeError,
        AssertionError,
        TypeError,
    ) as error:
        # The parser itself fails on some input (bad escapes, control characters). To the writer of
        # the file that is bad input too.
        what = f"is not valid YAML: {(str(error).splitlines() or ['?'])[0]}"
        raise reader.error(reader.last, what, "remove unusual characters near here") from error


def _syntax_fix(text: str, number: int) -> str:
    lines = text.splitlines()
    line = lines[number - 1] if number <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "indent with spaces; YAML does not allow tabs"
    if line.count(": ") > 1 or _UNQUOTED.search(line):
        return "quote text that contains `: ` or begins with a character such as @, `, %, * or &"
    return "check indentation, quotes and brackets on this line and the one above"


def _alias_fix(alias: str) -> str:
    key = alias.endswith(":")
    quoted = f'"*{alias.removesuffix(":")}"' + (":" if key else "")
    return f"quote a {'key' if key else 'text'} that begins with *: {quoted}; or define the anchor"


@dataclass(slots=True)
class _Node:
    place: Place
    scalar: Data = None
    items: "list[_Node] | None" = None
    pairs: "list[tuple[str, Place, _Node]] | None" = None
    open: bool = False


class _Reader:
    """Events -> nodes -> data. Nodes first, since an alias may be used at several paths."""

    def __init__(self, name: str, *, lines: bool) -> None:
        self._name = name
        self._lines = lines
        self._anchors: dict[str, _Node] = {}
        self._count = 0
        self.last = self.at(1, 1)

    def at(self, line: int, column: int) -> Place:
        return Place(self._name, line, column) if self._lines else Place(self._name)

    def error(self, place: Place, what: str, fix: str, path: Path = ()) -> InvalidYamlError:
        """An error that makes the complete text unreadable."""
        return InvalidYamlError(self._name, [Problem(place, path, what, fix)])

    def document(self, events: Iterator[Event]) -> Source:
        root: _Node | None = None
        for event in events:
            match event:
                case StreamStartEvent() | StreamEndEvent() | DocumentEndEvent():
                    continue
                case DocumentStartEvent():
                    if root is not None:
                        raise self._fault(
                            event,
                            "is a second document",
                            "keep one per file: remove the `---` line",
                        )
                case _:
                    root = self._node(event, events, 0)
        source = Source(self._name, None)
        if root is None:
            return source
        source.places[()] = root.place
        source.data = self._data(root, (), source, 0)
        return source

    def _fault(self, event: Event, what: str, fix: str) -> InvalidYamlError:
        return self.error(self._place(event), what, fix)

    def _place(self, event: Event) -> Place:
        self.last = self.at(event.start_mark.line + 1, event.start_mark.column + 1)
        return self.last

    def _node(self, event: Event, events: Iterator[Event], depth: int) -> _Node:
        place = self._place(event)
        if depth > MAX_DEPTH:
            raise self._fault(event, f"has more than {MAX_DEPTH} levels", "nest less deeply")
        if isinstance(event, AliasEvent):
            alias = event.anchor
            if alias not in self._anchors:
                what = f"*{alias} has no anchor &{alias} above it"
                raise self._fault(event, what, _alias_fix(alias))
            if self._anchors[alias].open:
                raise self._fault(event, f"*{alias} contains itself", "remove the alias")
            return self._anchors[alias]
        assert isinstance(event, NodeEvent)
        node = _Node(place)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if isinstance(event, ScalarEvent):
            node.scalar = self._scalar(event)
        elif isinstance(event, SequenceStartEvent):
            self._tag(event, "seq")
            node.open, node.items = True, []
            for inner in events:
                if isinstance(inner, SequenceEndEvent):
                    break
                node.items.append(self._node(inner, events, depth + 1))
        elif isinstance(event, MappingStartEvent):
            self._tag(event, "map")
            node.open, node.pairs = True, []
            for inner in events:
                if isinstance(inner, MappingEndEvent):
                    break
                key_place = self._place(inner)
                key = self._key(inner, events, depth)
                node.pairs.append((key, key_place, self._node(next(events), events, depth + 1)))
        node.open = False
        return node

    def _key(self, event: Event, events: Iterator[Event], depth: int) -> str:
        if isinstance(event, ScalarEvent):
            self._scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Node(self._place(event), event.value)
            return str(event.value)
        node = self._node(event, events, depth + 1)
        if node.items is not None or node.pairs is not None:
            raise self._fault(event, "a key must be plain text", "write `key: value`")
        return str(node.scalar)

    def _tag(self, event: NodeEvent, *expected: str) -> None:
        tag = event.tag
        if tag is not None and tag not in {"!", *(_TAG + kind for kind in expected)}:
            raise self._fault(event, f"has the tag {tag}; tags are not allowed", "remove the tag")

    def _scalar(self, event: ScalarEvent) -> Data:
        text, tag = str(event.value), event.tag
        if tag in {"!", _TAG + "str"} or (tag is None and event.style not in {None, ""}):
            return text
        self._tag(event, "int", "float", "bool", "null")
        return _plain_scalar(text)

    def _data(self, node: _Node, path: Path, source: Source, depth: int) -> Data:
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            what = f"has more than {MAX_NODES:,} values after its aliases are expanded"
            raise self.error(node.place, what, "use fewer aliases", path)
        if node.items is not None:
            items: list[Data] = []
            for index, item in enumerate(node.items):
                source.places[(*path, index)] = item.place
                items.append(self._data(item, (*path, index), source, depth + 1))
            return items
        if node.pairs is not None:
            return self._mapping(node.pairs, path, source, depth)
        return node.scalar

    def _mapping(
        self, pairs: list[tuple[str, Place, _Node]], path: Path, source: Source, depth: int
    ) -> dict[str, Data]:
        merged: dict[str, tuple[Place, _Node]] = {}
        own: dict[str, tuple[Place, _Node]] = {}
        for key, place, value in pairs:
            if key == "<<":
                merged = self._merge(value, path, source, depth) | merged
            elif key in own:
                first = own[key][0].line
                what = "duplicate key" + (f" (first on line {first})" if first is not None else "")
                source.problems.append(Problem(place, (*path, key), what, "keep one of the two"))
            else:
                own[key] = (place, value)
        result: dict[str, Data] = {}
        for key, (place, value) in {**merged, **own}.items():
            source.places[(*path, key)] = place
            result[key] = self._data(value, (*path, key), source, depth + 1)
        return result

    def _merge(
        self, value: _Node, path: Path, source: Source, depth: int
    ) -> dict[str, tuple[Place, _Node]]:
        """The keys of `<<: *anchor` or `<<: [*a, *b]`; earlier ones win."""
        found: dict[str, tuple[Place, _Node]] = {}
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise self.error(value.place, "merges too much", "use fewer aliases", path)
        for node in value.items if value.items is not None else [value]:
            if node.pairs is None:
                what, fix = "`<<` merges only mappings", "use the alias of a mapping"
                source.problems.append(Problem(node.place, (*path, "<<"), what, fix))
                continue
            self._count += len(node.pairs)
            for key, place, inner in node.pairs:
                if key == "<<":
                    found = self._merge(inner, path, source, depth + 1) | found
                else:
                    found.setdefault(key, (place, inner))
        return found


def _plain_scalar(text: str) -> Data:
    """The value of unquoted text under the core schema of YAML 1.2."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _OCT_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
