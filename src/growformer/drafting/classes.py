"""The class behind a config, as a function that builds it at any size; code of a checkpoint runs only if asked for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from growformer.drafting.measure import Build
from growformer.errors import SourceError, UnknownArchitectureError


def builder(
    config: Mapping[str, Any], folder: Path | None, *, trust_remote_code: bool = False
) -> tuple[dict[str, Any], Build]:
    """Return a config with the class's defaults filled in, and a function that builds the class.

    Args:
        config: config.json.
        folder: where it lies, with the code of a custom class beside it.
        trust_remote_code: run that code.

    Raises:
        SourceError: the class is code of the checkpoint, which was not asked to be run.
        UnknownArchitectureError: no class is known.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type in CONFIG_MAPPING_NAMES:
        names = [*(config.get("architectures") or ())]
        stock = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)

        def build(values: dict[str, Any]) -> nn.Module:
            values = {k: v for k, v in values.items() if k not in ("model_type", "transformers_version")}
            made = transformers.AutoConfig.for_model(model_type, **values)
            model: nn.Module = stock(made) if stock is not None else transformers.AutoModel.from_config(made)
            return model

        values = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}
        complete = dict(transformers.AutoConfig.for_model(model_type, **values).to_dict())
        return {**complete, "architectures": names}, build
    if not config.get("auto_map"):
        raise UnknownArchitectureError(
            f"transformers {transformers.__version__} knows no class for model_type {model_type!r}, and the checkpoint "
            "brings none (auto_map); call growformer.draft_architecture with build=, a function from a config "
            "dictionary to an ungrown model"
        )
    if not trust_remote_code or folder is None:
        raise SourceError(
            f"the class of model_type {model_type!r} is code inside the checkpoint (auto_map), which is not run unless "
            "you have read it and say so: --trust-remote-code"
        )
    return _remote(config, folder)


def _remote(config: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], Build]:
    import transformers

    loaded = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    wanted = dict(config.get("auto_map") or {})
    auto = next((name for name in ("AutoModelForCausalLM", "AutoModelForMaskedLM") if name in wanted), "AutoModel")

    def build(values: dict[str, Any]) -> nn.Module:
        made = copy.deepcopy(loaded)
        for name, value in values.items():
            if name not in ("auto_map", "model_type", "architectures") and hasattr(made, name):
                setattr(made, name, value)
        model: nn.Module = getattr(transformers, auto).from_config(made, trust_remote_code=True)
        return model

    return {**loaded.to_dict(), **config}, build


__all__ = ["builder"]
