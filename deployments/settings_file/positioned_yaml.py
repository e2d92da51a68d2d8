"""YAML that remembers on which line everything stands.

It is the YAML that people expect: a key that is there twice is an error instead of a silent last word, and `off`, `no`
and `on` are strings (YAML 1.1 makes them booleans, and `sticky: {mode: off}` a surprise), and so are dates.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Where a value is: keys and list positions, from the root."""


@dataclass(slots=True)
class PositionedYaml:
    """A document.

    Attributes:
        value: Its plain value.
        lines: The line, from 1, of each path: where its key stands, or the list item begins.
        problems: Line and description of what YAML itself allows and we do not.
    """

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[int, Path, str]] = field(default_factory=list)

    def line(self, path: Path) -> int | None:
        """The line of a path, or of the nearest one above it that is in the document."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the booleans of YAML 1.2, and without dates."""


_BOOLEAN = "tag:yaml.org,2002:bool"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOLEAN, _TIMESTAMP)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse(text: str) -> PositionedYaml:
    """Parses one document; an empty one has the value None.

    Raises:
        yaml.YAMLError: It is no YAML, or more than one document.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return PositionedYaml(None)
        document = PositionedYaml(None)
        _walk(root, (), document, set())
        # Duplicates were seen above; merge keys (`<<`) are resolved only here.
        document.value = loader.construct_document(root)
        return document
    except ValueError as error:  # A number tag on what is no number.
        raise yaml.YAMLError(str(error)) from error
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, path: Path, document: PositionedYaml, above: set[int]) -> None:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in above:
        raise yaml.MarkedYAMLError("while reading an alias", None, "it contains itself", node.start_mark)
    above.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _walk(item, (*path, position), document, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError("while reading a mapping", None, "a key must be text", key.start_mark)
            line = key.start_mark.line + 1
            below = (*path, key.value)
            if key.value in seen and key.value != "<<":
                document.problems.append((line, below, f"is here twice; the first is on line {seen[key.value]}"))
            seen.setdefault(key.value, line)
            document.lines[below] = line
            _walk(value, below, document, above)
    above.discard(id(node))
