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

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from growformer.errors import RequestError, did_you_mean
from growformer.storage.plain_yaml import read_yaml


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
    data = read_yaml(path, "recipe", "hidden_size: 720")
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
