"""Django's source archive, which carries its tests, and the packages that they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["CACHE", "packages", "source"]

CACHE = Path(__file__).parents[2] / "build" / "django-suite"
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

# Without them the suite skips tests, or cannot show the traceback of a parallel one.
_PACKAGES = ("docutils", "jinja2", "pyyaml", "tblib")


def source(version: str) -> Path:
    """Return the unpacked source of that version, fetched from the package index once."""
    root = CACHE / f"django-{version}"
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Moved into place when whole: a download that was interrupted is begun anew.
        with TemporaryDirectory(dir=CACHE) as folder:
            wanted = ["--no-binary", "Django", "--no-deps", "--dest", folder, f"Django=={version}"]
            subprocess.run([*_PIP, "download", *wanted], check=True)
            (archive,) = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            archive.unlink()
            (unpacked,) = Path(folder).iterdir()
            unpacked.rename(root)
    return root


def packages() -> Path:
    """Return a folder with the packages that the suite uses beside Django, installed once."""
    target = CACHE / f"packages-{sys.version_info.major}.{sys.version_info.minor}"
    if not target.exists():
        half = target.with_name(f"{target.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        subprocess.run(
            [*_PIP, "install", "--only-binary", ":all:", "--target", str(half), *_PACKAGES],
            check=True,
        )
        half.rename(target)
    return target
