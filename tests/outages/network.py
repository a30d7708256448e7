"""A network of the crowd's own, in which packets get lost: a namespace with one link to this host.

Needs root, `ip` (iproute2) and `nft` (nftables). What is broken is the namespace's own traffic; no
rule touches the host's.
"""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["Network", "missing"]

_OURS, _THEIRS = "10.213.{}.1", "10.213.{}.2"


def missing() -> str | None:
    """Return what stands in the way of such a network on this machine, or None."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a network namespace needs root"
    for program in ("ip", "nft"):
        if not _find(program):
            return f"the program {program} is not installed"
    return None


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Network:
    """One namespace. `host` is this machine as the namespace sees it."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name = f"dbpool-{os.getpid()}"
        self.link = f"dbp{os.getpid() % 10**9}"
        self.host, self._inner = _OURS.format(number), _THEIRS.format(number)
        self.inside = [_find("ip") or "ip", "netns", "exec", self.name]

    def __enter__(self) -> Network:
        try:
            self._ip("netns", "add", self.name)
            self._ip("link", "add", self.link, "type", "veth", "peer", "eth0", "netns", self.name)
            self._ip("addr", "add", f"{self.host}/30", "dev", self.link)
            self._ip("link", "set", self.link, "up")
            for command in (f"addr add {self._inner}/30 dev eth0", "link set eth0 up"):
                self._ip("-n", self.name, *command.split())
            self._ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for command in (f"link del {self.link}", f"netns del {self.name}"):
            subprocess.run([self.inside[0], *command.split()], check=False, capture_output=True)

    def drop(self) -> None:
        """Lose every packet, both ways, without a word."""
        self._rules("drop")

    def reject(self) -> None:
        """Answer every packet to the server with a reset."""
        # Not the reset itself, which takes the same way out.
        self._rules("tcp flags & rst == 0 reject with tcp reset", into="accept")

    def lose(self, percent: int) -> None:
        """Lose that share of the packets, each way."""
        self._rules(f"numgen random mod 100 < {percent} drop")

    def heal(self) -> None:
        """Let everything pass."""
        self._nft("flush ruleset")

    def _rules(self, rule: str, into: str | None = None) -> None:
        tcp = "meta l4proto tcp"
        self._nft(
            "flush ruleset\n"
            "table inet faults {\n"
            f"chain out {{ type filter hook output priority 0; {tcp} {rule}; }}\n"
            f"chain into {{ type filter hook input priority 0; {tcp} {into or rule}; }}\n"
            "}\n"
        )

    def _nft(self, rules: str) -> None:
        command = [*self.inside, _find("nft") or "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True, capture_output=True)

    def _ip(self, *arguments: str) -> None:
        subprocess.run([self.inside[0], *arguments], check=True, capture_output=True)
