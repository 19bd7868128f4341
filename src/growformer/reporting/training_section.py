"""The section on training: what learns when, and the calls that hold still or slow down exactly what should be."""

from __future__ import annotations

from dataclasses import dataclass

from growformer.reporting.numbers import share, whole
from growformer.reporting.subject import Subject

FREEZE = """\
import growformer
import torch
from transformers import {model_class}

model = {model_class}.from_pretrained({out!r})
new_regions = growformer.load_provenance({out!r}).new_regions

for name, parameter in model.named_parameters():
    is_new = torch.zeros_like(parameter)
    for region in new_regions[name]:
        along = [torch.cat([torch.arange(a, b) for a, b in ranges]) for ranges in region]
        is_new[torch.meshgrid(*along, indexing="ij")] = 1
    parameter.register_hook(lambda gradient, is_new=is_new: gradient * is_new)

# Without decay, and with gradients of zero, AdamW leaves what comes from the source bit for bit.
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
"""
GROW = """\
rules = growformer.UpdateRules(new_rate=1.3, ramp=250)  # or freeze_old=True
model, optimizer = growformer.grow(model, optimizer=optimizer, updates=rules, {sizes})
"""
TRAINER = """\
trainer = Trainer(model, arguments, callbacks=[growformer.RegionUpdatesCallback({out!r})], ...)
trainer.train(resume_from_checkpoint={out!r})
"""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of code with the words in front of it."""

    title: str
    words: str
    code: str


@dataclass(frozen=True, slots=True)
class Training:
    """The section.

    Attributes:
        rows: what there is to train: which, how many values, their share, when the first gradient comes, advice.
        snippets: code.
        notes: what else to know.
    """

    rows: tuple[tuple[str, str, str, str, str], ...]
    snippets: tuple[Snippet, ...]
    notes: tuple[str, ...]


_ADVICE = {
    "copy": ("as before", "the rate that training ended with; freeze it to keep the old model whole"),
    "rescaled": ("as before", "as before; their gradients are divided by the factor, which Adam does not notice"),
    "sum": ("as before", "as before; each copy gets the gradient of the whole"),
    "mean": ("first step", "as what is zero"),
    "constant": ("first step", "as what is zero"),
    "zero": ("first step", "writes into what exists: a short ramp avoids a step that is too large"),
    "free": ("second step", "learns once the zeros beside it have moved"),
}
_NAMES = {"copy": "source", "zero": "zero", "free": "free"}


def training(subject: Subject) -> Training:
    """Return what the page says about training on."""
    total = sum(subject.entries.values())
    rows = tuple(
        (_NAMES.get(kind, kind), whole(n), share(n, total), *_ADVICE[kind])
        for kind in _ADVICE
        if (n := subject.entries.get(kind, 0))
    )
    out = subject.grown or "OUT"
    heads = subject.rec.target_config.get("architectures") or subject.rec.source_config.get("architectures") or []
    found = str(heads[0]) if heads else ""
    model_class = found if found.isidentifier() else "AutoModelForCausalLM"
    sizes = ", ".join(f"{n}={subject.rec.target_config.get(n)!r}" for n in subject.plan.get("requested", ())) or "..."
    snippets = [
        Snippet(
            "Train only what is new",
            "The record beside the weights says which region of every parameter no source value fills.",
            FREEZE.format(model_class=model_class, out=out),
        ),
        Snippet(
            "Grow inside a training run",
            "The optimizer's state follows, what is new warms up by its own rules, and the bias correction of Adam is "
            "that of its own age.",
            GROW.format(sizes=sizes),
        ),
    ]
    notes = []
    if subject.basis == "inferred":
        del snippets[0]  # no record says which regions are new
        notes.append("No growformer.json lies beside the weights, so that no call says which regions are new.")
    if subject.is_trainer:
        snippets.insert(
            0,
            Snippet(
                "Go on with Trainer",
                "The checkpoint carries a training state; the callback keeps to the rules that it was grown by.",
                TRAINER.format(out=out),
            ),
        )
    if any(-1 in origin for origin, _ in subject.depth.values()):
        notes.append(
            "New layers that are copies write nothing at first. Grown inside a run, they fade in over 50 steps "
            "(UpdateRules(fade_in=50)), which ends where plain stacking ends, without its jump."
        )
    return Training(rows, tuple(snippets), tuple(notes))


__all__ = ["Snippet", "Training", "training"]
