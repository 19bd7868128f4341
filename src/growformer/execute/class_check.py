"""Asks a model's own class, on the meta device, whether a target config is one that it takes and builds as planned."""

from __future__ import annotations

from typing import Any

from growformer.architecture.source import describe
from growformer.errors import ArchitectureError, RequestError, SourceError
from growformer.planning.plan import Plan


def check_with_class(plan: Plan, config: dict[str, Any]) -> None:
    """Ask the model's own class whether it takes the target config and builds the planned tensors from it.

    Architectures that transformers does not know are left to their owner.

    Raises:
        RequestError: the class refuses, or builds other tensors.
    """
    import torch
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        return
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        heads = config.get("architectures") or []
        values = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}
        made = AutoConfig.for_model(model_type, **_special_floats(values))
        model_class = getattr(transformers, heads[0], None) if heads else None
        if model_class is None and type(made) not in transformers.MODEL_MAPPING:
            return  # a part of other models, which has no class of its own outside of them
        with torch.device("meta"):
            model = model_class(made) if model_class else transformers.AutoModel.from_config(made)
    except Exception as error:
        cause = error.__cause__ or error
        raise RequestError(
            f"the class of {model_type} refuses the target config: {_last_line(cause)}; ask for other sizes"
        ) from None
    finally:
        transformers.logging.set_verbosity(level)
    tensors = model.state_dict(keep_vars=True)
    shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    owners: dict[int, str] = {}
    aliases = {name: owner for name, t in tensors.items() if (owner := owners.setdefault(id(t), name)) != name}
    turned = {
        (owner if any(owner.endswith(head) for head in plan.architecture.ties) else name): (
            name if any(owner.endswith(head) for head in plan.architecture.ties) else owner
        )
        for name, owner in aliases.items()
    }
    try:
        built = describe(plan.architecture, {**config, **plan.source.inferred}, shapes, aliases=turned)
    except (SourceError, ArchitectureError) as error:
        raise RequestError(
            f"the class of {model_type} builds other tensors from the target config than planned; this config cannot "
            f"express the requested sizes: {error}"
        ) from None
    for name, shape in plan.target_shapes():
        if name in built.tensors and built.tensors[name].shape != shape:
            raise RequestError(
                f"the class of {model_type} builds {built.tensors[name].stored} with shape "
                f"{list(built.tensors[name].shape)} from the target config, the plan has {list(shape)}; this config "
                "cannot express the requested sizes"
            )


def _special_floats(value: Any) -> Any:
    """Return plain data with numbers that JSON lacks, which transformers writes as ``{"__float__": "Infinity"}``."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {name: _special_floats(inner) for name, inner in value.items()}
    return [_special_floats(inner) for inner in value] if isinstance(value, list) else value


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().rstrip(".")
