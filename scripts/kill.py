"""``python scripts/kill.py --runs 200``: kill ``growformer grow`` at random moments, and look at what is left.

After every kill the output must be absent, or complete: its digests match and its constraints hold. What is left beside
it must not look like a model. The next run finds it, or in half of the cases starts anew; whenever one ends by itself,
its bytes must be those of an undisturbed run.

Half of the kills come at any time of a run's life, start-up included; the others soon after the hidden folder appears,
where most of the writing is. Prints one line per state found, and exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

OPTIONS = ["--hidden-size", "768", "--num-hidden-layers", "10", "--max-shard-size", "4MB", "--no-verify"]
WRITING = 0.25
"""Seconds after the hidden folder has appeared in which the half of the kills come that are to hit the writing."""


def make_source(folder: Path) -> None:
    """Write a checkpoint of about 30 MB with random weights, without importing torch."""
    import json

    import numpy as np

    from growformer.storage.safetensors_file import header_bytes

    hidden, mlp, layers, vocab = 512, 1024, 6, 1000
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp,
        "num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
        "vocab_size": vocab, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}."
        shapes |= {
            f"{name}input_layernorm.weight": (hidden,), f"{name}post_attention_layernorm.weight": (hidden,),
            f"{name}self_attn.q_proj.weight": (512, hidden), f"{name}self_attn.k_proj.weight": (256, hidden),
            f"{name}self_attn.v_proj.weight": (256, hidden), f"{name}self_attn.o_proj.weight": (hidden, 512),
            f"{name}mlp.gate_proj.weight": (mlp, hidden), f"{name}mlp.up_proj.weight": (mlp, hidden),
            f"{name}mlp.down_proj.weight": (hidden, mlp),
        }  # fmt: skip
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    numbers = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header_bytes({name: (shape, "bfloat16") for name, shape in shapes.items()}))
        for shape in shapes.values():
            file.write((numbers.standard_normal(shape, dtype=np.float32).view(np.uint32) >> 16).astype("<u2").tobytes())


def command(source: Path, out: Path) -> list[str]:
    """Return the command that is killed."""
    return [sys.executable, "-m", "growformer", "grow", str(source), str(out), *OPTIONS]


def digest(folder: Path) -> str:
    """Return a digest of all files of a folder and their names."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".growformer.lock":
            whole.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def run_and_kill(source: Path, out: Path, seconds: float, after_folder: bool) -> bool:
    """Start a run and kill it after some seconds of its life, or of the hidden folder's; tell whether it was alive."""
    hidden = out.with_name(f".{out.name}.partial")
    process = subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while after_folder and process.poll() is None and not hidden.exists():
        time.sleep(0.001)
    try:
        _, trouble = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise SystemExit(f"a run that was not killed failed:\n{trouble.decode()}")
    return False


def problems(source: Path, out: Path, expected: str | None, *, verified: bool) -> list[str]:
    """Return the promises that what is there breaks."""
    from growformer import verify
    from growformer.verification.file_digests import check_digests

    found = []
    if out.exists():
        if expected is not None and digest(out) != expected:
            found.append("the output has other bytes than that of an undisturbed run")
        if not check_digests(out).ok:
            found.append(f"digests: {check_digests(out)}")
        if verified and not verify(source, out, checks=["constraints"]).ok:
            found.append("the constraints do not hold")
    for path in out.parent.iterdir():
        if path not in (out, source) and not path.name.startswith("."):
            found.append(f"{path.name} was left, and looks like something")
    return found


def main() -> int:
    """Kill runs and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    states: Counter[str] = Counter()
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="growformer-kill-") as name:
        folder = Path(name)
        source, out = folder / "source", folder / "out"
        make_source(source)
        start = time.perf_counter()
        if run_and_kill(source, out, 600, after_folder=False):
            raise SystemExit("the undisturbed run took more than ten minutes")
        life = time.perf_counter() - start
        expected = digest(out)
        broken += problems(source, out, expected, verified=True)
        shutil.rmtree(out)
        kills = 0
        while kills < options.runs:
            after_folder = moments.random() < 0.5
            killed = run_and_kill(source, out, moments.uniform(0, WRITING if after_folder else life), after_folder)
            kills += killed
            hidden = out.with_name(f".{out.name}.partial")
            shards = len(list(hidden.glob("*.safetensors"))) if hidden.exists() else 0
            state = "complete" if out.exists() else f"hidden, {shards} shards" if hidden.exists() else "nothing yet"
            states[f"{'killed' if killed else 'ended'}: {state}"] += 1
            broken += problems(source, out, expected, verified=killed)
            if out.exists():
                shutil.rmtree(out)
            elif hidden.exists() and moments.random() < 0.5:
                shutil.rmtree(hidden)
        if run_and_kill(source, out, 600, after_folder=False):
            raise SystemExit("the last run took more than ten minutes")
        broken += problems(source, out, expected, verified=True)
    for state, count in sorted(states.items()):
        print(f"{count:5}  {state}")
    print(f"{kills} kills over a life of {life:.1f} s; {len(broken)} broken promises")
    for line in broken:
        print(f"  {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
