"""`make bench`: what a small chat request costs through the gateway, beside the same request to the provider itself.

Gateway and provider are processes of their own; CPU time is the gateway's, read from the system. Rounds alternate, and
each prints its numbers: a machine that is busy with something else shows as spread.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKEN = "bench-token-0123456789"  # noqa: S105 - of a gateway that lives for a minute
REQUEST = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello, how are you? " * 10}]}).encode()
TICKS = os.sysconf("SC_CLK_TCK")


async def load(port: int, requests: int, connections: int) -> list[float]:
    """Seconds that each request took, over a few connections that are kept alive."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\n"
    message = f"{head}content-type: application/json\r\ncontent-length: {len(REQUEST)}\r\n\r\n".encode() + REQUEST
    took: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests // connections):
            began = time.perf_counter()
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode("latin-1"))
            await reader.readexactly(int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return took


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def start_upstream() -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen([sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def start_gateway(upstream_port: int, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    url = f"http://127.0.0.1:{upstream_port}/v1/chat/completions"
    model = {"name": "m", "provider": "openai", "token": TOKEN, "url": url}
    config = {"auth": {"keys": [{"name": "bench", "token": TOKEN}]}, "models": [model], "state": {"store": "memory"}}
    (folder / "config.yaml").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "sluice", "serve", "--config", str(folder / "config.yaml"), "--addr", f":{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        time.sleep(0.02)
    process.terminate()
    raise RuntimeError("the gateway did not start")


def measure(rounds: int, requests: int, connections: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        upstream, upstream_port = start_upstream()
        gateway, port = start_gateway(upstream_port, Path(folder))
        try:
            asyncio.run(load(port, 500, connections))  # warm
            print(f"{'round':>5} {'CPU ms a request':>17} {'p50 ms':>8} {'p99 ms':>8} {'provider alone p50 ms':>22}")
            cpu, added = [], []
            for number in range(1, rounds + 1):
                alone = asyncio.run(load(upstream_port, requests, connections))
                before = cpu_s(gateway.pid)
                took = sorted(asyncio.run(load(port, requests, connections)))
                cpu.append((cpu_s(gateway.pid) - before) * 1000 / len(took))
                p50, p99, base = statistics.median(took), took[len(took) * 99 // 100], statistics.median(alone)
                added.append((p50 - base) * 1000)
                print(f"{number:>5} {cpu[-1]:>17.3f} {p50 * 1000:>8.2f} {p99 * 1000:>8.2f} {base * 1000:>22.2f}")
            print(
                f"median: {statistics.median(cpu):.3f} ms CPU a request, {statistics.median(added):.2f} ms added at p50"
            )
        finally:
            for process in (gateway, upstream):
                process.terminate()
                process.wait(10)


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--requests", type=int, default=2000)
    options.add_argument("--connections", type=int, default=8)
    chosen = options.parse_args()
    measure(chosen.rounds, chosen.requests, chosen.connections)
