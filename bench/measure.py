"""Scenarios, each over all targets in turn, the order turned round by round: what disturbs one disturbs the next."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from .load import Answers, Line, Question, ask_all, listen_to
from .processes import LOAD_CORE, Others, cpu_s, hold, rss_mb
from .targets import START_S, Running, Target

Row = dict[str, Any]
WARM = 500
FEW = 4  # a slow target's share is one of so many


class Bench:
    """The provider, on the core of the load, and the targets, one at a time, on the other."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self.rows: list[Row] = []

    def __enter__(self) -> "Bench":
        os.sched_setaffinity(0, {LOAD_CORE})
        self._upstream = subprocess.Popen([sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE)
        assert self._upstream.stdout is not None
        self.upstream_port = int(self._upstream.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._upstream.terminate()
        self._upstream.wait()

    def start(self, target: Target) -> Running:
        """Answers its first request when this returns, unless it raises RuntimeError."""
        running = Running(target, self._folder, self.upstream_port)
        try:
            uvloop.run(self._first_answer(running))
        except BaseException:
            running.__exit__()
            raise
        return running

    @contextlib.contextmanager
    def all_running(self, targets: Sequence[Target]) -> Iterator[list[Running]]:
        """Warm, and held until they are let go one at a time. Who does not start is left out and told of."""
        with contextlib.ExitStack() as stack:
            found = []
            for target in targets:
                try:
                    running = stack.enter_context(self.start(target))
                except RuntimeError as error:
                    self._tell(str(error))
                    continue
                uvloop.run(ask_all(running.question("small"), 8, count=WARM // (FEW if target.is_slow else 1)))
                hold(running.pid, is_held=True)
                found.append(running)
            yield found

    def turns(self, running: Sequence[Running], rounds: int) -> Iterator[tuple[int, Running]]:
        """Each target once a round; only the one whose turn it is runs."""
        for number in range(rounds):
            for one in running if number % 2 == 0 else reversed(running):
                hold(one.pid, is_held=False)
                yield number, one
                hold(one.pid, is_held=True)

    def note(self, scenario: str, one: Running, number: int, others: Others, **values: float) -> None:
        row = {"scenario": scenario, "target": one.target.name, "round": number, "others": others.cores(), **values}
        self.rows.append(row)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float))
        self._tell(f"{scenario:>12} {number} {one.target.name:<16} {shown}")

    def others(self, *running: Running) -> Others:
        return Others([*(one.pid for one in running), self._upstream.pid, os.getpid()])

    async def _first_answer(self, running: Running) -> None:
        until = time.perf_counter() + START_S
        while time.perf_counter() < until and running.is_alive():
            with contextlib.suppress(OSError):
                if (await ask_all(running.question("small"), 1, count=1)).took:
                    return
            await asyncio.sleep(0.002)
        raise RuntimeError(f"{running.target.name} gave no answer: {running.said()}")


def requests(
    bench: Bench, running: Sequence[Running], scenario: str, *, connections: int, seconds: float, rounds: int
) -> None:
    """CPU and time of requests that come as fast as they are answered over that many connections."""
    name = f"{scenario} x{connections}"
    for number, one in bench.turns(running, rounds):
        others, before, began = bench.others(one), cpu_s(one.pid), time.perf_counter()
        answers = uvloop.run(ask_all(one.question(scenario), connections, seconds=seconds))
        values = _times(answers, time.perf_counter() - began, cpu_s(one.pid) - before)
        bench.note(name, one, number, others, **values)


def bodies(bench: Bench, running: Sequence[Running], *, size: int, rounds: int) -> None:
    """Requests with a body of that many bytes, one after the other."""
    for number, one in bench.turns(running, rounds):
        question, count = one.question("small", padding=size), 100 // (FEW if one.target.is_slow else 1)
        others, before, began = bench.others(one), cpu_s(one.pid), time.perf_counter()
        answers = uvloop.run(ask_all(question, 1, count=count))
        values = _times(answers, time.perf_counter() - began, cpu_s(one.pid) - before)
        bench.note(f"body of {size // 2**20} MB", one, number, others, **values)


def latency(bench: Bench, running: Sequence[Running], *, count: int, rounds: int) -> None:
    """One request at a time, each after one to the provider itself: what is added to that one's time."""
    direct = _direct(bench, running[0].question("small"))

    async def ask(one: Running) -> tuple[list[float], list[float]]:
        provider, gateway = await Line.to(direct), await Line.to(one.question("small"))
        pairs = []
        for _ in range(count):
            pairs.append((await provider.ask(), await gateway.ask()))
            await asyncio.sleep(0.002)
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    for number, one in bench.turns(running, rounds):
        others = bench.others(one)
        base, took = uvloop.run(ask(one))
        added = {f"added_p{share}_ms": (_at(took, share) - _at(base, share)) * 1000 for share in (50, 99)}
        bench.note("one at a time", one, number, others, **added)


def streams(bench: Bench, running: Sequence[Running], *, a_second: float, seconds: float, rounds: int) -> None:
    """Streams of 200 chunks in two seconds, so twice `a_second` of them are under way."""
    direct = _direct(bench, running[0].question("paced", stream=True), "paced")
    heard = uvloop.run(listen_to(direct, streams=20, a_second=20))
    base_s = _at([stream.first or 0.0 for stream in heard], 50)
    for number, one in bench.turns(running, rounds):
        others, before = bench.others(one), cpu_s(one.pid)
        count = int(a_second * seconds)
        heard = uvloop.run(listen_to(one.question("paced", stream=True), streams=count, a_second=a_second))
        used = cpu_s(one.pid) - before
        firsts = [stream.first for stream in heard if stream.first is not None]
        delays = [delay for stream in heard for delay in stream.delays]
        values = {"cpu_ms": used * 1000 / count, "whole": sum(stream.is_whole for stream in heard) / count}
        if firsts:
            values |= {"first_added_p50_ms": (_at(firsts, 50) - base_s) * 1000, "chunk_p99_ms": _at(delays, 99) * 1000}
        bench.note(f"{a_second * 2:g} streams", one, number, others, **values)


def starts(bench: Bench, targets: Sequence[Target], *, rounds: int) -> None:
    """From the start of the process to its first answer with status 200."""
    for number in range(rounds):
        for target in targets:
            others = bench.others()
            with bench.start(target) as one:
                took = time.perf_counter() - one.began
                others.ours.append(one.pid)
                bench.note(
                    "start", one, number, bench.others(one), start_s=took, cpu_s=cpu_s(one.pid), rss_mb=rss_mb(one.pid)
                )


def memory(bench: Bench, targets: Sequence[Target], *, count: int) -> None:
    """Resident of a process that was just started, after so many requests, and after as many again."""
    for target in targets:
        others = bench.others()
        with bench.start(target) as one:
            others.ours.append(one.pid)
            values, share = {"idle_mb": rss_mb(one.pid)}, FEW * 5 if target.is_slow else 1
            for name in ("rss_mb", "again_mb"):
                uvloop.run(ask_all(one.question("small"), 32, count=count // share, seconds=120))
                values[name] = rss_mb(one.pid)
            bench.note("memory", one, 0, others, **values)


def _direct(bench: Bench, question: Question, scenario: str = "small") -> Question:
    """The same, asked of the provider itself."""
    return Question.of(bench.upstream_port, f"/{scenario}/", {}, question.wire.partition(b"\r\n\r\n")[2])


def _times(answers: Answers, lasted_s: float, used_s: float) -> dict[str, float]:
    done = len(answers.took) or 1
    return {
        "cpu_ms": used_s * 1000 / done,
        "a_second": len(answers.took) / lasted_s,
        "failed": float(answers.failed),
        "p50_ms": _at(answers.took, 50) * 1000,
        "p99_ms": _at(answers.took, 99) * 1000,
    }


def _at(values: Sequence[float], share: int) -> float:
    """A percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else 0.0
