"""YAML that a person wrote: plain values only, every key once."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from growformer.errors import RequestError


def read_yaml(path: Path, what: str, example: str) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty one.

    Args:
        path: the file.
        what: what it is, for messages: ``recipe``.
        example: a line such as it should have.

    Raises:
        RequestError: it is missing, not YAML, or no mapping.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such {what}; expected a YAML file with lines such as {example}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise RequestError(f"{path}: not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise RequestError(f"{path}: not YAML: too deep") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise RequestError(f"{path}: expected lines such as {example}, found a {type(data).__name__}")
    return data


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a key may stand once only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping, or refuse a key that stands twice."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


__all__ = ["read_yaml"]
