"""How much memory there is, and how much a comparison of outputs takes."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.8
"""Of the memory that is free, what a comparison may take: the rest is for what an estimate leaves out."""

_CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_bytes(root: Path = Path("/")) -> int:
    """Return how many bytes this process may still take: what the system has, or its control group allows.

    Args:
        root: of the file system, for tests.
    """
    found = [free for free in (_of_system(root), _of_group(root)) if free is not None]
    return min(found, default=1 << 62)


def _of_system(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return None


def _of_group(root: Path) -> int | None:
    for limit, usage in _CGROUPS:
        try:
            allowed = (root / "sys/fs/cgroup" / limit).read_text().strip()
            used = int((root / "sys/fs/cgroup" / usage).read_text())
        except (OSError, ValueError):
            continue
        if allowed.isdigit() and int(allowed) < 1 << 60:
            return max(0, int(allowed) - used)
    return None


def gigabytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


__all__ = ["SHARE", "available_bytes", "gigabytes"]
