"""``python -m examples.progressive_lm``: run arms and seeds side by side; what has a result is not run again."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from examples.progressive_lm.arms import ARMS
from examples.progressive_lm.corpus import SOURCES
from examples.progressive_lm.record import result_file, run
from examples.progressive_lm.settings import SETTINGS

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Run what is asked for, then print the table and draw the curves of all results in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--corpus", choices=SOURCES, help="english (default) or code")
    parser.add_argument("--steps", type=int, help="fewer, for a look")
    parser.add_argument("--rate", type=float, help="the learning rate at its height, in place of the setting's")
    parser.add_argument("--out", type=Path, help="folder of the results; one for each setting by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    options = parser.parse_args()
    changes = {k: v for k in ("steps", "corpus", "rate") if (v := getattr(options, k)) is not None}
    name = "-".join([options.setting, *(f"{k}-{v}" for k, v in changes.items())])
    out = options.out or RESULTS / name
    out.mkdir(parents=True, exist_ok=True)
    wanted = [(arm, seed) for seed in options.seeds for arm in options.arms if not result_file(out, arm, seed).exists()]
    command = "python -m examples.progressive_lm " + " ".join(sys.argv[1:])
    jobs = 1 if SETTINGS[options.setting].device == "cuda" else min(options.jobs, len(wanted))
    with ProcessPoolExecutor(max(1, jobs), get_context("spawn")) as pool:
        rest = (jobs, out, command)
        runs = {pool.submit(run, options.setting, changes, *one, *rest): one for one in wanted}
        for done in as_completed(runs):
            arm, seed = runs[done]
            step, _, flops, seconds, loss = done.result()
            print(f"{arm}, seed {seed}: {step} steps, {flops:.2e} FLOPs, {seconds:.0f} s, loss {loss:.4f}", flush=True)
    from examples.progressive_lm import curves

    results = curves.read(out)
    print(curves.table(results))
    picture = out / "curves.svg"
    if curves.draw(results, picture):
        print(f"the curves: {picture}")


if __name__ == "__main__":
    main()
