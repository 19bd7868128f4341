"""The options of ``grow`` for a training checkpoint: what becomes of the optimizer's state and of later updates."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import one_of, whole_number

if TYPE_CHECKING:
    from growformer.cli.request import Wanted
    from growformer.execute.companion import Companion

PANEL = "Training state of a checkpoint of Trainer or DCP"
STATES = ("carry", "zero-new", "drop", "omit")
POLICIES = ("raw", "function_space")


def _factor(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a number, found {text!r}") from None


def _rate(help: str) -> Any:
    return typer.Option(metavar="X", parser=_factor, rich_help_panel=PANEL, help=help)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What becomes of a training state. None: not on the command line."""

    optimizer_state: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            parser=one_of(*STATES),
            autocompletion=lambda: list(STATES),
            rich_help_panel=PANEL,
            help="carry: grow it, copied layers with the state of what they copy; zero-new: new layers start without; "
            "drop: all start without, the schedule goes on; omit: leave it behind (Trainer). Default: carry.",
        ),
    ] = None
    new_rate: Annotated[float | None, _rate("Factor on the learning rate of what is new. Default: 1.")] = None
    ramp: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number,
            rich_help_panel=PANEL,
            help="Steps over which what is new reaches that rate. Default: 0.",
        ),
    ] = None
    new_decay: Annotated[float | None, _rate("Factor on the weight decay of what is new. Default: 1.")] = None
    fade_in: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number,
            rich_help_panel=PANEL,
            help="Steps over which copied layers begin to write; 0: they learn to, from zero. Default: 50; 0 with "
            "--freeze-old.",
        ),
    ] = None
    freeze_old: Annotated[
        bool | None,
        typer.Option("--freeze-old", rich_help_panel=PANEL, help="Keep what comes from the source as it is."),
    ] = None
    update_policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            parser=one_of(*POLICIES),
            autocompletion=lambda: list(POLICIES),
            rich_help_panel=PANEL,
            help="Of rescaled weights. raw: the optimizer's own updates; function_space: those that move the function "
            "as before. These six need growformer.RegionUpdatesCallback in Trainer. Default: raw.",
        ),
    ] = None


def companion(wanted: Wanted, training: Training) -> Companion | None:
    """Return what grows the training state that a command is asked for, if the source has any.

    Raises:
        RequestError: the options contradict each other or the source.
    """
    from growformer.api import training_state

    assert wanted.folder is not None
    given = {f.name: getattr(training, f.name) for f in fields(training) if getattr(training, f.name) is not None}
    state = given.pop("optimizer_state", None)
    if not given:
        return training_state(wanted.plan, wanted.folder, state=state)
    from growformer.training.update_rules import UpdateRules

    rules = UpdateRules(**{"policy" if name == "update_policy" else name: value for name, value in given.items()})
    return training_state(wanted.plan, wanted.folder, state=state, updates=rules)


__all__ = ["Training", "companion"]
