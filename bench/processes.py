"""What the system says of processes: CPU time, memory, and how busy the machine is with others. Linux only."""

import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, GATEWAY_CORE = CORES[0], CORES[-1]


def tree(pid: int) -> list[int]:
    """The process and all that it has started."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, _read(children).split())
    return found


def cpu_s(pid: int) -> float:
    """On a core, all threads of the whole tree, since it began; of those that have ended only full ticks are known."""
    total = 0.0
    for one in tree(pid):
        threads = [_read(file).split() for file in Path(f"/proc/{one}/task").glob("*/schedstat")]
        exact = sum(int(thread[0]) for thread in threads if thread) / 1e9
        fields = _read(Path(f"/proc/{one}/stat")).rpartition(")")[2].split()
        ticks = (int(fields[11]) + int(fields[12]) - 2) / _TICKS if fields else 0.0
        total += max(exact, ticks)
    return total


def rss_mb(pid: int) -> float:
    pages = [_read(Path(f"/proc/{one}/statm")).split() for one in tree(pid)]
    return sum(int(fields[1]) for fields in pages if fields) * os.sysconf("SC_PAGE_SIZE") / 2**20


def hold(pid: int, *, is_held: bool) -> None:
    """A gateway that waits for its turn does nothing in the background meanwhile."""
    for one in tree(pid):
        os.kill(one, signal.SIGSTOP if is_held else signal.SIGCONT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended meanwhile
        return ""


@dataclass
class Others:
    """How many cores the machine spent on processes that are none of ours, since this was made."""

    ours: list[int]

    def __post_init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_s(), self._own_s()

    def cores(self) -> float:
        others_s = _busy_s() - self._busy - (self._own_s() - self._own)
        return max(0.0, others_s / (time.monotonic() - self._began))

    def _own_s(self) -> float:
        return sum(cpu_s(pid) for pid in self.ours)


def _busy_s() -> float:
    user, nice, system, _, _, irq, softirq, *_ = map(int, _read(Path("/proc/stat")).split()[1:9])
    return (user + nice + system + irq + softirq) / _TICKS
