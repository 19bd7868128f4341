"""Data that comes as a package of Debian and Ubuntu: used where it is installed, else downloaded and unpacked here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

DOWNLOADS = Path(__file__).resolve().parent / ".packages"


def folder_of(package: str, installed: str, otherwise: str = "") -> Path:
    """Return the folder of a package's data, without becoming root.

    Args:
        package: its name.
        installed: where the package puts the folder.
        otherwise: what a machine without ``apt-get`` can do instead.

    Raises:
        SystemExit: it is not there, and cannot be fetched.
    """
    if Path(installed).is_dir():
        return Path(installed)
    unpacked = DOWNLOADS / package
    folder = unpacked / installed.lstrip("/")
    if folder.is_dir():
        return folder
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SystemExit(f"{installed} is of Debian's package {package}, and there is no apt-get here{otherwise}")
    DOWNLOADS.mkdir(exist_ok=True)
    print(f"fetching {package}", file=sys.stderr)
    found = subprocess.run(["apt-get", "download", package], cwd=DOWNLOADS, capture_output=True, text=True)
    files = sorted(DOWNLOADS.glob(f"{package}_*.deb"))
    if found.returncode or not files:
        reason = (found.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SystemExit(f"apt-get download {package} failed: {reason}{otherwise}")
    part = DOWNLOADS / f"{package}.part"
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", str(files[-1]), str(part)], check=True)
    part.rename(unpacked)
    return folder
