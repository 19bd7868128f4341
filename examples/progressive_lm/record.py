"""Runs one arm in a process of its own, and keeps what it gave."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from examples.progressive_lm import train
from examples.progressive_lm.arms import ARMS
from examples.progressive_lm.corpus import load
from examples.progressive_lm.settings import SETTINGS


def result_file(out: Path, arm: str, seed: int) -> Path:
    """Return where the result of a run is kept."""
    return out / f"{arm}-{seed}.json"


def run(setting_name: str, changes: dict[str, Any], arm: str, seed: int, jobs: int, out: Path, command: str) -> Any:
    """Train one arm in a process of its own, write its curve, and return the last point."""
    if jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    setting = replace(SETTINGS[setting_name], **changes)
    corpus = load(setting.corpus)
    steps = train.matched_steps(setting) if ARMS[arm].matched else setting.steps
    curve = train.train(ARMS[arm], seed, setting, corpus, steps)
    machine = torch.cuda.get_device_name() if setting.device == "cuda" else platform.processor() or platform.machine()
    record = {
        "arm": arm, "seed": seed, "setting": setting_name, **changes, "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "command": command, "corpus_sha256": corpus.digest,
        "machine": machine, "side_by_side": jobs, "torch": torch.__version__, **curve.to_json(),
    }  # fmt: skip
    path = result_file(out, arm, seed)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(record) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return curve.points[-1]
