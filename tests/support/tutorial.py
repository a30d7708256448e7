"""A tutorial, followed to the letter: its files in an empty folder, its commands in a shell."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from tests.support.documents import Block
from tests.support.waiting import wait_until

__all__ = ["Tutorial"]

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:8000"


class Tutorial:
    """A reader in a folder of its own; `stop` ends the server that it has started.

    Arguments: `replace`, texts of the page that stand for something of the reader's machine, and
    what they are here. Environments and packages are those of the tests.
    """

    def __init__(self, folder: Path, replace: dict[str, str]) -> None:
        self.folder = folder
        self.commands: list[str] = []
        self._replace = replace
        self._server: subprocess.Popen[bytes] | None = None
        self._address = ""
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",  # a file may change within a second
        }

    def follow(self, blocks: Iterable[Block]) -> None:
        """Write the files, run the commands, and compare what these show with the page."""
        for block in blocks:
            if block.language == "console":
                for command, shown in block.commands:
                    self.command(command, shown)
            else:
                assert block.file, block.code
                # The port is taken by whatever else runs on this machine.
                code = self._here(block.code).replace(ADDRESS, "127.0.0.1:0")
                (self.folder / block.file).write_text(code)

    def command(self, line: str, shown: str) -> None:
        """Run one command."""
        self.commands.append(line)
        words = shlex.split(self._here(line))
        if words[:3] == ["python3", "-m", "venv"] or words[0] in (".", "cd", "mkdir", "createdb"):
            assert not shown
        elif words[:2] == ["pip", "install"]:
            _installable(words[2:])
        elif words[0] == "export":
            name, _, value = words[1].partition("=")
            self.environ[name] = value
        elif words[0] == "gunicorn":
            self._serve(words[1:])
        elif words[0] == "curl":
            assert _same(self._curl(words[1:]), shown), line
        else:
            assert _same(self.run(*words), shown), line

    def _here(self, text: str) -> str:
        for shown, here in self._replace.items():
            text = text.replace(shown, here)
        return text

    def run(self, *words: str, fails: bool = False) -> str:
        """Run a program; return what it shows."""
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (ended.returncode != 0) is fails, f"{words}:\n{ended.stdout}"
        return ended.stdout

    def _serve(self, options: list[str]) -> None:
        log = self.folder / "gunicorn.log"
        launch = ("-m", "testproject.demo.launch", str(os.getpid()), "--no-control-socket")
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                [sys.executable, *launch, *options],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        found = wait_until(
            lambda: re.search(r"Listening at: http://(\S+)", log.read_text()), 30, log.read_text
        )
        self._address = found[1]

    def _curl(self, words: list[str]) -> str:
        """Do what curl does, of which not every machine has one."""
        given = [words[at + 1] for at, word in enumerate(words) if word == "-d"]
        url = words[-1].replace(ADDRESS, self._address)
        assert self._address in url
        data = "&".join(given).encode() if given else None
        try:
            with urllib.request.urlopen(url, data, timeout=30) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, body = error.code, ""
            error.close()
            assert "-w" in words, f"{words}: {status}"
        return f"{status}\n" if "-w" in words else body

    def stop(self) -> None:
        """End the server, which must end well."""
        if self._server is not None:
            self._server.terminate()
            status = self._server.wait(30)
            assert status == 0, (self.folder / "gunicorn.log").read_text()


def _installable(words: list[str]) -> None:
    """The extras exist, and what else is to be installed is there."""
    extras = set(",".join(re.findall(r"\[(.*?)\]", " ".join(words))).split(",")) - {""}
    known = importlib.metadata.metadata("dbpool-web").get_all("Provides-Extra")
    assert extras <= set(known or ())
    for word in words:
        assert importlib.metadata.version(word.partition("[")[0])


def _same(output: str, shown: str) -> bool:
    """Whether the page shows this output; times differ, and a final newline more or less."""

    def timeless(text: str) -> str:
        return re.sub(r"\d+\.\d+ ?m?s\b", "<time>", text).strip()

    assert timeless(output) == timeless(shown)
    return True
