"""What a model's own class builds from a config, on the meta device: run here, or as a process of its own.

As a process it imports what a model type needs, reads a config, and prints the tensors as JSON. Importing torch,
transformers and a model takes seconds, which pass beside other work there.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Built:
    """What a class builds.

    Attributes:
        shapes: name -> (shape, dtype name); None: transformers has no class for this config.
        aliases: name -> the name of the tensor that it shares storage with.
        refusal: why the class refuses the config.
    """

    shapes: dict[str, tuple[tuple[int, ...], str]] | None
    aliases: dict[str, str]
    refusal: str | None = None


def build(config: dict[str, Any]) -> Built:
    """Build a config's class without memory for its tensors."""
    model, refusal = build_model(config)
    if model is None:
        return Built(None, {}, refusal)
    tensors = model.state_dict(keep_vars=True)
    shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    owners: dict[int, str] = {}
    aliases = {name: owner for name, t in tensors.items() if (owner := owners.setdefault(id(t), name)) != name}
    return Built(shapes, aliases)


def build_model(config: dict[str, Any]) -> tuple[nn.Module | None, str | None]:
    """Return a model of a config's class, on the meta device, or why the class refuses the config.

    Neither is returned where transformers has no class for it.
    """
    import torch
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        return None, None
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        heads = config.get("architectures") or []
        values = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}
        made = AutoConfig.for_model(model_type, **_special_floats(values))
        model_class = getattr(transformers, heads[0], None) if heads else None
        if not (isinstance(model_class, type) and issubclass(model_class, torch.nn.Module)):
            model_class = None  # a config may name anything
        if model_class is None and type(made) not in transformers.MODEL_MAPPING:
            return None, None  # a part of other models, which has no class of its own outside of them
        with torch.device("meta"):
            return (model_class(made) if model_class else transformers.AutoModel.from_config(made)), None
    except Exception as error:
        return None, _last_line(error.__cause__ or error)
    finally:
        transformers.logging.set_verbosity(level)


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


def _import_early(model_type: str) -> None:
    """Import what ``build`` will need, while the config is not there yet."""
    import torch  # noqa: F401
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if model_type in CONFIG_MAPPING_NAMES and model_type in MODEL_MAPPING_NAMES:
        import transformers

        names = MODEL_MAPPING_NAMES[model_type]
        getattr(transformers, names if isinstance(names, str) else names[0], None)


def main() -> None:
    """Answer for one config."""
    gc.disable()  # imports make objects by the hundred thousand, and hardly any of them is garbage
    answer = sys.stdout
    sys.stdout = sys.stderr  # nothing that a library prints is part of the answer
    _import_early(sys.argv[1] if len(sys.argv) > 1 else "")
    gc.freeze()
    gc.enable()
    text = sys.stdin.read()
    if not text:
        return  # whoever asked has ended
    built = build(json.loads(text))
    json.dump({"shapes": built.shapes, "aliases": built.aliases, "refusal": built.refusal}, answer)


if __name__ == "__main__":
    main()
