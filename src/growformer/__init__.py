"""Make transformers larger without changing what they compute.

>>> import growformer
>>> grown = growformer.grow(model, hidden_size=1024, num_hidden_layers=24)      # doctest: +SKIP
>>> growformer.grow_checkpoint("SmolLM2-135M", "SmolLM2-168M", hidden_size=720)  # doctest: +SKIP

Public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from growformer.api import Inspection, grow, grow_checkpoint, inspect, plan, verify
    from growformer.api_report import report
    from growformer.api_sizing import flops, pad, plan_padding, suggest
    from growformer.architecture.declaration import Architecture
    from growformer.errors import (
        ArchitectureError,
        GrowformerError,
        NotPreservableError,
        OutputError,
        PlanError,
        RequestError,
        SourceError,
        UnknownArchitectureError,
        VerificationError,
    )
    from growformer.execute.provenance import Provenance, load_provenance
    from growformer.planning.plan import Plan
    from growformer.planning.transformations import (
        AttentionExpansion,
        HeadAddition,
        HeadsExpansion,
        HiddenDimensionExpansion,
        LayerAddition,
        MLPExpansion,
    )
    from growformer.reporting.report import Report
    from growformer.runs.loop import ScheduledGrowth
    from growformer.runs.planned import plan_schedule
    from growformer.runs.proposal import Proposal, propose_schedule
    from growformer.runs.replay import replay
    from growformer.runs.stages import train_in_stages
    from growformer.sizing.flops import Flops
    from growformer.training.flat import WhenFlat
    from growformer.training.growth_log import GrowthEvent, GrowthLog
    from growformer.training.ledger import FlopsLedger
    from growformer.training.plot import plot_growth
    from growformer.training.schedule import GrowthSchedule, GrowthStage
    from growformer.training.trainer_callback import RegionUpdatesCallback
    from growformer.training.update_rules import UpdateRules
    from growformer.training.updates import RegionUpdates, updates_of
    from growformer.verification.certificate import Certificate, read_certificate, write_certificate
    from growformer.verification.certificate_check import CertificateCheck, check_certificate
    from growformer.verification.file_digests import DigestsReport, check_digests

_WHERE = {
    "growformer.api": ("Inspection", "draft_architecture", "grow", "grow_checkpoint", "inspect", "plan", "verify"),
    "growformer.api_report": ("report",),
    "growformer.api_sizing": ("flops", "pad", "plan_padding", "suggest"),
    "growformer.architecture.declaration": ("Architecture",),
    "growformer.errors": (
        "ArchitectureError",
        "GrowformerError",
        "NotPreservableError",
        "OutputError",
        "PlanError",
        "RequestError",
        "SourceError",
        "UnknownArchitectureError",
        "VerificationError",
    ),
    "growformer.execute.provenance": ("Provenance", "load_provenance"),
    "growformer.planning.plan": ("Plan",),
    "growformer.planning.transformations": (
        "AttentionExpansion",
        "HeadAddition",
        "HeadsExpansion",
        "HiddenDimensionExpansion",
        "LayerAddition",
        "MLPExpansion",
    ),
    "growformer.reporting.report": ("Report",),
    "growformer.runs.loop": ("ScheduledGrowth",),
    "growformer.runs.planned": ("plan_schedule",),
    "growformer.runs.proposal": ("Proposal", "propose_schedule"),
    "growformer.runs.replay": ("replay",),
    "growformer.runs.stages": ("train_in_stages",),
    "growformer.sizing.flops": ("Flops",),
    "growformer.training.flat": ("WhenFlat",),
    "growformer.training.growth_log": ("GrowthEvent", "GrowthLog"),
    "growformer.training.ledger": ("FlopsLedger",),
    "growformer.training.plot": ("plot_growth",),
    "growformer.training.schedule": ("GrowthSchedule", "GrowthStage"),
    "growformer.training.trainer_callback": ("RegionUpdatesCallback",),
    "growformer.training.update_rules": ("UpdateRules",),
    "growformer.training.updates": ("RegionUpdates", "updates_of"),
    "growformer.verification.certificate": ("Certificate", "read_certificate", "write_certificate"),
    "growformer.verification.certificate_check": ("CertificateCheck", "check_certificate"),
    "growformer.verification.file_digests": ("DigestsReport", "check_digests"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Architecture",
    "ArchitectureError",
    "AttentionExpansion",
    "Certificate",
    "CertificateCheck",
    "DigestsReport",
    "Flops",
    "FlopsLedger",
    "GrowformerError",
    "GrowthEvent",
    "GrowthLog",
    "GrowthSchedule",
    "GrowthStage",
    "HeadAddition",
    "HeadsExpansion",
    "HiddenDimensionExpansion",
    "Inspection",
    "LayerAddition",
    "MLPExpansion",
    "NotPreservableError",
    "OutputError",
    "Plan",
    "PlanError",
    "Proposal",
    "Provenance",
    "RegionUpdates",
    "RegionUpdatesCallback",
    "Report",
    "RequestError",
    "ScheduledGrowth",
    "SourceError",
    "UnknownArchitectureError",
    "UpdateRules",
    "VerificationError",
    "WhenFlat",
    "__version__",
    "check_certificate",
    "check_digests",
    "draft_architecture",
    "flops",
    "grow",
    "grow_checkpoint",
    "inspect",
    "load_provenance",
    "pad",
    "plan",
    "plan_padding",
    "plan_schedule",
    "plot_growth",
    "propose_schedule",
    "read_certificate",
    "replay",
    "report",
    "suggest",
    "train_in_stages",
    "updates_of",
    "verify",
    "write_certificate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("growformer")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'growformer' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
