"""Django's source archive, which carries its tests, and the packages that they need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["CACHE", "packages", "source"]

CACHE = Path(__file__).parents[2] / "build" / "django-suite"
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

# Without them the suite skips tests, or cannot show the traceback of a parallel one.
_PACKAGES = ("docutils", "jinja2", "pyyaml", "tblib")


def source(version: str) -> Path:
    """Return the unpacked source of that version, fetched from the package index once."""
    root = CACHE / f"django-{version}"
    if not (root / "tests" / "runtests.py").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = ["--no-binary", ":all:", "--no-deps", "--dest", str(CACHE), f"Django=={version}"]
        subprocess.run([*_PIP, "download", *wanted], check=True)
        archive = next(path for path in CACHE.glob("*.tar.gz") if version in path.name)
        with tarfile.open(archive) as tar:
            tar.extractall(CACHE, filter="data")
        archive.unlink()
        unpacked = next(path for path in CACHE.iterdir() if path.name.lower() == root.name)
        unpacked.rename(root)
    return root


def packages() -> Path:
    """Return a folder with the packages that the suite uses beside Django, installed once."""
    target = CACHE / f"packages-{sys.version_info.major}.{sys.version_info.minor}"
    if not target.exists():
        subprocess.run(
            [*_PIP, "install", "--only-binary", ":all:", "--target", str(target), *_PACKAGES],
            check=True,
        )
    return target
