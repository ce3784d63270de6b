"""The command line. Each command is a few lines here and a module beside it, imported only when it is called."""

import gc
from pathlib import Path
from typing import BinaryIO

import click

from core import __version__

_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("config.yaml"),
    show_default=True,
    help="The configuration.",
)
_env_file = click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Variables that fill in what the environment lacks [default: .env, if there is one].",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sluice")
def main() -> None:
    """Sluice: one OpenAI-compatible URL in front of many LLM providers."""


@main.command()
@_config
@_env_file
@click.option("--addr", metavar="HOST:PORT", help="Where to listen [default: 127.0.0.1:$PORT, else 8080].")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that serve.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes; for work on Sluice itself.")
@click.option(
    "--grace",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Seconds that streams may finish in at the end.",
)
def serve(config: Path, env_file: Path | None, addr: str | None, workers: int, reload: bool, grace: int) -> None:
    """Serve the gateway until SIGTERM or Ctrl-C."""
    if reload and workers > 1:
        raise click.UsageError("--reload serves with one process: leave --workers out")
    gc.disable()  # until all is loaded (serve.py): to look for garbage in it meanwhile is a tenth of the start
    from .serve import Options
    from .serve import serve as run

    run(Options(config=config, env_file=env_file, addr=addr, workers=workers, reload=reload, grace=grace))


@main.command()
@_config
@_env_file
def check(config: Path, env_file: Path | None) -> None:
    """Validate the configuration and print the route table."""
    from .check import route_table
    from .environment import read_config, read_environment

    click.echo(route_table(read_config(config, read_environment(env_file))))


@main.command()
@_config
@_env_file
@click.option("--key", metavar="NAME", help="As this caller [default: the first key].")
@click.argument("request", type=click.File("rb"), metavar="REQUEST.json")
def explain(config: Path, env_file: Path | None, key: str | None, request: BinaryIO) -> None:
    """Show who would answer a request now, and why not the others, without sending it. `-` reads standard input."""
    from .environment import read_config, read_environment
    from .explain import explanation

    click.echo(explanation(read_config(config, read_environment(env_file)), request.read(), key))


@main.group(invoke_without_command=True)
@_config
@_env_file
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def state(context: click.Context, config: Path, env_file: Path | None, as_json: bool) -> None:
    """Show what is used of every limit, which breakers are open, and who is cooling until when."""
    if context.invoked_subcommand is not None:  # which takes the options too, and has ours by default
        context.default_map = {name: {"config": config, "env_file": env_file} for name in state.commands}
        return
    from .environment import read_config, read_environment
    from .state import show

    click.echo(show(read_config(config, read_environment(env_file)), as_json=as_json))


@state.command("reset")
@_config
@_env_file
@click.argument("name")
def state_reset(config: Path, env_file: Path | None, name: str) -> None:
    """Close the breaker, end the cooldown. NAME is a model or a provider; what was counted stays."""
    from .environment import read_config, read_environment
    from .state import reset

    click.echo(reset(read_config(config, read_environment(env_file)), name))


@state.command("create-table")
@_config
@_env_file
def state_create_table(config: Path, env_file: Path | None) -> None:
    """Make the DynamoDB table on an endpoint, for local use."""
    from .environment import read_config, read_environment
    from .state import create_table

    click.echo(create_table(read_config(config, read_environment(env_file))))


if __name__ == "__main__":
    main()
