"""`make dev-lambda`: the function's own loop behind a function URL on loopback, streaming, without AWS.

The emulator is that of the tests. The configuration is what `SLUICE_CONFIG` names for a function, with what `.env` has
for it, but counters may stay on this machine and the example's token is accepted.
"""

import asyncio
import errno
import signal
import sys
from pathlib import Path

import click

from sluice.environment import read_environment
from tests.function_url import FunctionUrl
from tests.runtime_api import RuntimeApi

ROOT = Path(__file__).parent.parent
WRAPPER = ROOT / "src" / "functions" / "stream"


@click.command(help=__doc__)
@click.option("--config", default="config.example.yaml", help="A path, s3://bucket/key or ssm:/name.")
@click.option("--port", default=8080)
@click.option("--timeout", "time_s", default=60.0, help="The function's time-out in seconds.")
def main(config: str, port: int, time_s: float) -> None:
    try:
        sys.exit(asyncio.run(serve(config, port, time_s)))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise click.ClickException(f"127.0.0.1:{port} is taken; --port chooses another one") from None


async def serve(config: str, port: int, time_s: float) -> int:
    """The function's exit code."""
    async with RuntimeApi() as api, FunctionUrl(api, port=port, time_s=time_s) as front:
        process = await asyncio.create_subprocess_exec(
            WRAPPER, sys.executable, env=environment(api, config), start_new_session=True
        )  # so that Ctrl-C is ours to hand on
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, process.terminate)
        ended = asyncio.create_task(process.wait())
        started = asyncio.create_task(api.asked_next.wait())
        await asyncio.wait({ended, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if not ended.done():
            click.echo(f"The function answers on {front.url}, and each answer streams.", err=True)
        return await ended


def environment(api: RuntimeApi, config: str) -> dict[str, str]:
    return {
        **read_environment(None),
        "PYTHONPATH": str(ROOT / "src"),
        "LAMBDA_TASK_ROOT": str(Path.cwd()),  # where the configuration and the state lie
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_LAMBDA_FUNCTION_NAME": "sluice",
        "AWS_SAM_LOCAL": "true",
        "_HANDLER": "functions.handler.handler",
        "SLUICE_CONFIG": config,
    }


if __name__ == "__main__":
    main()
