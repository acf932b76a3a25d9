"""Which process a run lives in, and whether that is gone for certain."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_PIDS: Final = Path("/proc/self/ns/pid")


def here() -> str:
    """This process, for `gone`: the boot of its machine, its process namespace, its number and when it began."""
    pid = os.getpid()
    return "/".join((_boot(), _namespace(), str(pid), _began(pid)))


def gone(process: str, *, one_machine: bool) -> bool:
    """Whether a process has ended for certain; never so where that cannot be told from here.

    `one_machine`: whoever can be named was on this machine (a SQLite file is opened by one machine alone).
    """
    boot, namespace, pid, began = process.split("/") if process.count("/") == 3 else ("", "", "", "")
    if not boot or not _boot():
        return False
    if boot != _boot():
        return one_machine  # it has booted since
    if namespace != _namespace():
        return False  # in another container: its numbers mean nothing here
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _began(int(pid)) != began


def _boot() -> str:
    """A mark that every boot of every machine has for itself; "" where there is none."""
    with suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    with suppress(OSError, subprocess.SubprocessError):  # macOS
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, timeout=5, check=True
        )
        return answer.stdout.strip()
    return ""


def _namespace() -> str:
    with suppress(OSError):
        return _PIDS.readlink().name
    return ""


def _began(pid: int) -> str:
    """When a process began, by the kernel's clock; "" where it does not say, "ended" for one that only its parent
    still knows of."""
    with suppress(OSError):
        state, *numbers = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return "ended" if state in "ZX" else numbers[18]
    return ""
