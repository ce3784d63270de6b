"""What the machine gives: environment variables, a `.env` file that fills in what they lack, the configuration file."""

import os
from collections.abc import Mapping
from pathlib import Path

import click
from dotenv import dotenv_values

from core.config import ConfigError, Loaded, load
from core.retries import RetryPolicy
from core.retry_after import parse_wait

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


def retry_policy(env: Environment) -> RetryPolicy:
    """From RETRY_MAX_RETRIES, RETRY_BASE_DELAY, RETRY_MAX_DELAY (`500ms`, `1s`, `2m`) and RETRY_JITTER (0 to 1)."""
    default = RetryPolicy()
    return RetryPolicy(
        max_retries=int(_number(env, "RETRY_MAX_RETRIES", default.max_retries)),
        base_delay_s=_duration(env, "RETRY_BASE_DELAY", default.base_delay_s),
        max_delay_s=_duration(env, "RETRY_MAX_DELAY", default.max_delay_s),
        jitter=min(1.0, _number(env, "RETRY_JITTER", default.jitter)),
    )


def _duration(env: Environment, name: str, default: float) -> float:
    text = env.get(name, "")
    seconds = parse_wait(text, 0.0) if text else default
    if seconds is None:
        raise click.ClickException(f"{name}={text}: not a duration; write 500ms, 1s or 2m")
    return seconds


def _number(env: Environment, name: str, default: float) -> float:
    text = env.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1000:
        raise click.ClickException(f"{name}={text}: not a number, or out of range")
    return number


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
