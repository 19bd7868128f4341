"""From options and a recipe to a plan: the keywords of ``growformer.plan``, and notes on what was left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.cli.options import Growth
from growformer.errors import PlanError, RequestError, did_you_mean

if TYPE_CHECKING:
    from growformer import Inspection, Plan
    from growformer.cli.costs import Cost
    from growformer.storage.folder import ModelFolder

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_hidden_layers",
)
HOW_TO_WRITE = ("dtype", "max_shard_size", "revision")
"""Options that say how a plan is carried out, and so go with ``--plan``."""

_KEYWORDS = ("new_layers", "init", "seed", "to_parameters", "shape")
_NOT_SIZES = ("architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A growth that is ready to be carried out.

    Attributes:
        folder: the source; None where only its config is known.
        plan: what becomes of it.
        dtype: of the result, where it changes.
        max_shard_bytes: the largest shard.
        notes: what the user should know besides the plan's own notes.
    """

    folder: ModelFolder | None
    plan: Plan
    dtype: str | None
    max_shard_bytes: int
    notes: tuple[str, ...]

    @cached_property
    def costs(self) -> tuple[Cost, Cost]:
        """Costs of source and target."""
        from growformer.cli.costs import costs

        return costs(self.plan, self.dtype)


def read(model: str, growth: Growth, *, with_weights: bool, config: str | None = None) -> Wanted:
    """Plan what options (and their recipe) ask for; without weights, of a hub model only headers are fetched.

    Args:
        model: a folder, a hub id, or the path of a config.
        growth: the options.
        with_weights: whether the plan is to be carried out.
        config: path of the config of a distributed checkpoint.

    Raises:
        GrowformerError: see ``growformer.plan``.
    """
    from growformer.api import inspect, plan

    asked = _with_recipe(growth)
    folder = open_source(model, asked.get("revision"), with_weights=with_weights)
    source = folder if folder is not None else model
    found = inspect(source, config=_config(config))
    sizes, fields = _split(asked, found)
    like = _like(asked.get("like"))
    keywords: dict[str, Any] = {name: asked[name] for name in _KEYWORDS if name in asked}
    if "new_layers_at" in asked:
        keywords["new_layers_at"] = _positions(asked["new_layers_at"])
    made = plan(found, like=like, set_fields=fields or None, **keywords, **sizes)
    return Wanted(
        folder=folder,
        plan=made,
        dtype=asked.get("dtype"),
        max_shard_bytes=parse_bytes(asked.get("max_shard_size", "5GB")),
        notes=(*_on_fields(fields), *_on_like(like, made)),
    )


def _config(path: str | None) -> dict[str, Any] | None:
    from growformer.storage.folder import read_json

    return None if path is None else read_json(Path(path), "expected the config of the checkpoint")


def check_with_class(plan: Plan) -> None:
    """Ask the model's class about the target config now, rather than when the plan is carried out.

    Raises:
        RequestError: the class refuses.
    """
    from growformer.execute.class_check import check_with_class as check

    check(plan, dict(plan.target_config))


def read_plan(model: str, path: str, growth: Growth) -> Wanted:
    """Take a plan that was written before.

    Raises:
        RequestError: options ask for another growth.
        PlanError: the file is no plan.
    """
    from growformer import Plan

    others = [f"--{name.replace('_', '-')}" for name in growth.given() if name not in HOW_TO_WRITE]
    if others:
        raise RequestError(
            f"--plan goes without {', '.join(others)}: {path} decides that already; make another plan, or leave out "
            "--plan"
        )
    file = Path(path)
    if not file.is_file():
        raise PlanError(f"{path}: no such plan; make one with growformer plan {model} --hidden-size ... -o {path}")
    try:
        made = Plan.from_json(file.read_text(encoding="utf-8"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {error}") from None
    asked = growth.given()
    return Wanted(
        folder=open_source(model, asked.get("revision")),
        plan=made,
        dtype=asked.get("dtype"),
        max_shard_bytes=parse_bytes(asked.get("max_shard_size", "5GB")),
        notes=(),
    )


def open_source(model: str, revision: str | None, *, with_weights: bool = True) -> ModelFolder | None:
    """Open a model folder or hub model; None: it is a config, which has no tensors, or a distributed checkpoint."""
    from growformer.storage.dcp import is_dcp

    if model.endswith(".json") or is_dcp(model):
        return None
    from growformer.storage.folder import open_folder, open_headers

    return open_folder(model, revision) if with_weights else open_headers(model, revision)


def parse_bytes(text: str | int) -> int:
    """Return a size in bytes: ``500MB`` (decimal), ``2GiB`` (binary), or a number.

    Raises:
        RequestError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise RequestError(f"max_shard_size = {text!r}: expected a size such as 500MB, 5GB or 2GiB")
    return int(float(match[1]) * unit)


def _with_recipe(growth: Growth) -> dict[str, Any]:
    given = growth.given()
    given["set"] = _assignments(given.get("set", []))
    said: dict[str, Any] = {}
    if growth.recipe is not None:
        from growformer.cli.recipe import load_recipe

        said = load_recipe(growth.recipe)
    return {**said, **given, "set": {**said.get("set", {}), **given["set"]}}


def _assignments(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RequestError(f"--set {text}: expected FIELD=VALUE, as in --set n_inner=4096")
        name = name.strip()
        if name in found:
            raise RequestError(f"--set {name} stands twice: {found[name]!r} and {value!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _split(asked: Mapping[str, Any], source: Inspection) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sizes that are asked for, and the other config fields to set."""
    architecture = source.architecture
    sizes = {architecture.aliases.get(name, name): asked[name] for name in SIZES if name in asked}
    fields: dict[str, Any] = {}
    known = {*SIZES, *source.sizes, *architecture.aliases, *_size_names(architecture.sizes.values())}
    for name, value in asked["set"].items():
        own = architecture.aliases.get(name, name)
        if name not in known:
            fields[name] = value
        elif sizes.setdefault(own, value) != value:
            raise RequestError(f"{own} is asked for twice: {sizes[own]} and, by set, {value}")
    others = {*source.source.config, *architecture.defaults}
    if set(fields) - others:
        others |= _fields_of_class(source.source.config.get("model_type"))
    for name in fields:
        if name not in others:
            raise RequestError(
                f"--set {name}: {source.source.config.get('model_type')} has no config field {name!r}"
                f"{did_you_mean(name, [*known, *others])}; growformer inspect lists the sizes"
            )
    return sizes, fields


def _size_names(expressions: Any) -> set[str]:
    from growformer.architecture.exact import names_in

    return {name for expression in expressions for name in names_in(expression)}


def _fields_of_class(model_type: Any) -> set[str]:
    from transformers import AutoConfig

    try:
        return set(AutoConfig.for_model(model_type).to_dict())
    except ValueError:
        return set()


def _positions(value: str | list[int]) -> str | list[int]:
    if isinstance(value, list) or value in ("end", "interleave"):
        return value
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise RequestError(
            f"new_layers_at = {value!r}: expected end, interleave, or numbers of target layers as in 3,7,11"
            f"{did_you_mean(value, ('end', 'interleave'))}"
        ) from None


def _like(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from growformer.storage.folder import read_json

    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    return read_json(file, "expected the target's config.json")


def _on_fields(fields: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} = {json.dumps(value)} is no size: it is written as it stands; whether the model computes the same "
        "with it is for the outputs check to say"
        for name, value in fields.items()
    ]


def _on_like(like: Mapping[str, Any] | None, plan: Plan) -> list[str]:
    if like is None:
        return []
    skip = {*_NOT_SIZES, *plan.architecture.size_fields(), *plan.architecture.layer_lists, *plan.rho}
    differ = [n for n in like if n not in skip and n in plan.target_config and like[n] != plan.target_config[n]]
    if not differ:
        return []
    return [f"the target config differs in {', '.join(differ)} as well; only sizes are taken from it"]
