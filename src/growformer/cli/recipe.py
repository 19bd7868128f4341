"""A recipe: the options of a growth in a YAML file, so that a growth can be kept, reviewed and repeated.

    hidden_size: 720
    num_hidden_layers: 36
    new_layers_at: end            # or interleave, or [30, 31, 32, 33, 34, 35]
    init: orthogonal
    seed: 1
    set:                          # a family's own sizes, and other config fields
      max_position_embeddings: 8192

Names are those of the options, with underscores. ``like`` is relative to the recipe's folder. A key that is not known,
or stands twice, is an error.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from growformer.errors import RequestError, did_you_mean


class Recipe(BaseModel):
    """Every key that a recipe may have."""

    model_config = ConfigDict(extra="forbid")

    hidden_size: StrictInt | None = None
    intermediate_size: StrictInt | None = None
    num_attention_heads: StrictInt | None = None
    num_key_value_heads: StrictInt | None = None
    head_dim: StrictInt | None = None
    num_hidden_layers: StrictInt | None = None
    to_parameters: StrictInt | str | None = None
    shape: Literal["balanced", "deeper", "wider"] | None = None
    set: dict[str, Any] | None = None
    like: str | None = None
    new_layers_at: Literal["end", "interleave"] | list[StrictInt] | None = None
    new_layers: Literal["copy", "random"] | None = None
    init: Literal["normal", "copy", "orthogonal"] | None = None
    seed: StrictInt | None = None
    dtype: Literal["bfloat16", "float16", "float32", "float64"] | None = None
    max_shard_size: StrictInt | str | None = None
    revision: str | None = None


def load_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe and return what it says, by name.

    Raises:
        RequestError: it is missing, not YAML, or has keys or values that are not known; all are named.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such recipe; expected a YAML file with lines such as hidden_size: 720")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise RequestError(f"{path}: not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise RequestError(f"{path}: expected lines such as hidden_size: 720, found a {type(data).__name__}")
    try:
        said = Recipe.model_validate(data).model_dump(exclude_none=True)
    except ValidationError as error:
        raise RequestError(f"{path}: {'; '.join(_problems(error))}") from None
    if "like" in said:
        said["like"] = str(path.parent / said["like"])
    return said


def _problems(error: ValidationError) -> list[str]:
    by_key: dict[str, tuple[list[str], Any, bool]] = {}
    for found in error.errors():
        key = str(found["loc"][0])
        expected, _, unknown = by_key.setdefault(key, ([], found["input"], found["type"] == "extra_forbidden"))
        if not unknown:
            expected.append(_expected(found["type"], found.get("ctx", {}), found["msg"]))
    return [
        f"unknown key {key!r}{did_you_mean(key, Recipe.model_fields) or '; known: ' + ', '.join(Recipe.model_fields)}"
        if unknown
        else f"{key}: expected {' or '.join(dict.fromkeys(expected))}, found {value!r}"
        for key, (expected, value, unknown) in by_key.items()
    ]


def _expected(kind: str, context: dict[str, Any], message: str) -> str:
    if kind == "literal_error":
        return str(context["expected"])
    names = {"int_type": "a whole number", "string_type": "text", "dict_type": "a mapping", "list_type": "a list"}
    return names.get(kind, message)


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
