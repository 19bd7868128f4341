"""Makes environments for tools whose results the tests verify, for ``python3 scripts/test.py -m mergekit``.

mergekit asks for versions that would change the tests' own environment. Its environment stands beside that one, gets
the same torch first (an unpinned one may bring gigabytes of GPU libraries), and is made once. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment

MERGEKIT = "mergekit==0.1.5"
VARIABLE = "GROWFORMER_MERGEKIT"
"""Names the command, for the tests."""


def ensure_mergekit() -> str | None:
    """Leave mergekit's command in ``$GROWFORMER_MERGEKIT``, and return why that cannot be, or None.

    A command that the variable names already is taken as it is.
    """
    if os.environ.get(VARIABLE):
        return None if Path(os.environ[VARIABLE]).is_file() else f"${VARIABLE} names no file"
    folder = environment.folder().with_name(environment.folder().name + "-mergekit")
    command = folder / "bin" / "mergekit-yaml"
    done = folder / f"{MERGEKIT}.installed"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"environment: making {folder} for {MERGEKIT} (the first time takes some minutes)", flush=True)
        python = folder / "bin" / "python"
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", environment.TORCH],
            [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", MERGEKIT],
        ]
        for arguments in commands:
            if subprocess.call(arguments) != 0:
                return f"{' '.join(arguments)} failed"
        done.touch()
    os.environ[VARIABLE] = str(command)
    return None


__all__ = ["MERGEKIT", "VARIABLE", "ensure_mergekit"]
