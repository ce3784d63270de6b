"""The configuration of a function: from the package, S3 or SSM, read again after a while, and never replaced by a
wrong one.

`SLUICE_CONFIG`: a path in the package, `s3://bucket/key` or `ssm:/name`; without it `config.yaml` beside this file.
`SLUICE_CONFIG_TTL`: seconds until it is looked at again, and with it all that its references stand for.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from core.auth import example_key
from core.config import ConfigError, Loaded, load
from core.log_line import OURS

if TYPE_CHECKING:
    from .remote import Remote

_LOG = logging.getLogger(OURS)
SHIPPED = str(Path(__file__).with_name("config.yaml"))
TTL_S = 300.0
_REMOTE = ("s3://", "ssm:")
_REFERENCE = ("ssm:", "secretsmanager:")


class Configuration:
    """The clock is the wall's: that of the process may stand still while its environment is frozen.

    Raises ConfigError for a time that is none.
    """

    def __init__(self, env: Mapping[str, str], *, clock: Callable[[], float] = time.time) -> None:
        self._env = env
        self._place = env.get("SLUICE_CONFIG") or SHIPPED
        self._ttl_s = _seconds(env, "SLUICE_CONFIG_TTL", TTL_S)
        self._clock = clock
        self._read_at = 0.0
        self._text: str | None = None  # in use
        self._found: dict[str, str] = {}  # what its references stand for
        self._remote: Remote | None = None

    def is_due(self) -> bool:
        return self._clock() >= self._read_at + self._ttl_s

    def is_overdue(self) -> bool:
        """Nobody should be served by it once more: the environment was frozen, or made from a snapshot."""
        return self._clock() >= self._read_at + 2 * self._ttl_s

    def forget(self) -> None:
        """Before a snapshot is taken: what was read and connected will be old in all that is made of it."""
        self._read_at = 0.0
        self._remote = None

    def read(self) -> Loaded:
        """The first time. Blocks. Raises ConfigError."""
        loaded = self.refreshed()
        assert loaded is not None
        return loaded

    def refreshed(self) -> Loaded | None:
        """A new one, None where nothing has changed. Blocks. Raises ConfigError: the old one holds."""
        try:
            text = self._read()
            is_same = text == self._text and self._look_up(frozenset(self._found)) == self._found
            return None if is_same else self._load(text)
        finally:
            self._read_at = self._clock()  # also where it fails: not every request shall try again

    def _read(self) -> str:
        if self._place.startswith(_REMOTE):
            return self._reach().read(self._place)
        try:
            return Path(self._place).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigError([f"{self._place} cannot be read: {type(error).__name__}"]) from None

    def _load(self, text: str) -> Loaded:
        found: dict[str, str] = {}

        def look_up(references: frozenset[str]) -> Mapping[str, str]:
            found.update(self._look_up(references))
            return found

        env, token = self._env, self._env.get("AUTH_TOKEN", "")
        if token.startswith(_REFERENCE):
            if token not in look_up(frozenset({token})):
                raise ConfigError([f"AUTH_TOKEN: {token} cannot be read"])
            env = {**env, "AUTH_TOKEN": found[token]}
        name = self._place.rpartition("/")[2]
        loaded = load(text, name=name, env=env, look_up=look_up)
        if problems := _not_here(loaded, self._env):
            raise ConfigError([f"{name}:1: {problem}" for problem in problems])
        self._text, self._found = text, found
        for warning in loaded.warnings:
            _LOG.warning("%s", warning)
        return loaded

    def _look_up(self, references: frozenset[str]) -> dict[str, str]:
        return self._reach().look_up(references) if references else {}

    def _reach(self) -> "Remote":
        from .remote import Remote

        self._remote = self._remote or Remote()
        return self._remote


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    said = env.get(name) or str(default)
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError([f"{name}: {said} is not a number of seconds"])
    return seconds


def _not_here(loaded: Loaded, env: Mapping[str, str]) -> list[str]:
    """What is right elsewhere and wrong in a function. `AWS_SAM_LOCAL` is set where it is tried out at home."""
    if env.get("AWS_SAM_LOCAL"):
        return []
    problems = []
    if loaded.config.state is None:
        problems.append("state: must be set: a function's environments share nothing but what it names")
    if name := example_key(loaded.config.auth.keys):
        problems.append(f"auth.keys: {name} has the example's token, which everybody knows")
    return problems
