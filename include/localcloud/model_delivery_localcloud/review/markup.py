"""A rendered template as a tree, as far as the portal's own pages need one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Union

_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
)
_BLOCKS = frozenset({"br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "p", "pre", "tr"})
# HTML's white space; a space that does not break is text, which code is indented by.
SPACE = " \t\n\f\r"
_SILENT = frozenset({"script", "style"})


@dataclass
class Node:
    """An element: its tag, its attributes (empty text for one without a value), what it holds."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Union["Node", str]] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        """Yield each element below this one, in the document's order."""
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    def first(self, *tags: str) -> "Node | None":
        """Return the first element below with one of these tags, or None."""
        return next((node for node in self.walk() if node.tag in tags), None)

    def text(self) -> str:
        """Return the text below, a line a block."""
        lines = "".join(self._pieces()).replace("\r", "\n").split("\n")
        return "\n".join(line for each in lines if (line := each.strip(SPACE)))

    def _pieces(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag not in _SILENT:
                edge = "\n" if child.tag in _BLOCKS else ""
                yield edge
                yield from child._pieces()
                yield edge


def parse_markup(text: str) -> Node:
    """Return the root of the tree; what is not closed ends with what holds it."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    return builder.root


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in _VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # As in HTML, only a void element closes itself.
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        for depth in range(len(self._open) - 1, 0, -1):
            if self._open[depth].tag == tag:
                del self._open[depth:]
                return

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)
