"""What the machine gives: environment variables, a `.env` file that fills in what they lack, the configuration file."""

import os
from collections.abc import Mapping
from pathlib import Path

import click
from dotenv import dotenv_values

from core.config import ConfigError, Loaded, load

Environment = Mapping[str, str]
DOT_ENV = Path(".env")


def read_environment(env_file: Path | None) -> Environment:
    """`env_file` None: `.env` here, if there is one."""
    file = env_file or DOT_ENV
    try:
        found = dotenv_values(file) if file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error.__class__.__name__}") from None
    return {**{name: value for name, value in found.items() if value is not None}, **os.environ}


def read_config(file: Path, env: Environment) -> Loaded:
    """Ends the command with every problem on a line of its own when the configuration is refused."""
    try:
        return load(file.read_text(encoding="utf-8"), name=file.name, env=env)
    except FileNotFoundError:
        raise click.ClickException(
            f"there is no {file}; copy config.example.yaml to config.yaml, or name one with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error.__class__.__name__}") from None
    except ConfigError as error:
        lines = "\n".join(error.problems)
        count = len(error.problems)
        raise click.ClickException(
            f"the configuration is refused, {count} problem{'s'[: count > 1]}:\n{lines}"
        ) from None
