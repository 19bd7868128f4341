"""ESM with its head for contacts, which reads all attention maps in a method of its own, among its outputs."""

from __future__ import annotations

from typing import Any

import torch
import transformers


class EsmModel(transformers.EsmModel):
    """The class itself, whose forward also gives what ``predict_contacts`` does, as ``logits``."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.set_attn_implementation("eager")  # only this one gives its maps

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the usual outputs, and unless attention maps are asked for (the method does), contacts."""
        found = super().forward(input_ids, attention_mask=attention_mask, output_attentions=output_attentions, **kwargs)
        if not output_attentions:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            found["logits"] = self.predict_contacts(input_ids, mask)
        return found
