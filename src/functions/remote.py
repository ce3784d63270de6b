"""What lies in AWS: configurations in S3 and SSM, and what references stand for, read with Powertools' Parameters.

Imported on first use, since it brings boto3 along: a function whose configuration is all in its package needs none.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import boto3
from aws_lambda_powertools.utilities.parameters import SecretsProvider, SSMProvider
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from core.config import ConfigError
from core.log_line import OURS

_LOG = logging.getLogger(OURS)
_PATIENCE = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2})
_FAILURES = (GetParameterError, BotoCoreError, ClientError)


class Remote:
    """Blocks. Clients are made on first use and kept: whoever wakes from a snapshot makes a new one of these."""

    def __init__(self) -> None:
        self._object = ("", "")  # its ETag and text, when last it was sent

    def read(self, place: str) -> str:
        """`s3://bucket/key` or `ssm:/name`. Raises ConfigError."""
        if place.startswith("s3://"):
            return self._read_object(place)
        found = self.look_up(frozenset({place}))
        if place not in found:
            raise ConfigError([f"{place} cannot be read"])
        return found[place]

    def look_up(self, references: frozenset[str]) -> dict[str, str]:
        """What cannot be read is left out, and the log says why."""
        parts = [reference.partition(":") for reference in references]
        parameters = self._read_parameters([name for kind, _, name in parts if kind == "ssm"])
        secrets = self._read_secrets([name for kind, _, name in parts if kind == "secretsmanager"])
        return {f"ssm:{name}": value for name, value in parameters.items()} | {
            f"secretsmanager:{name}": value for name, value in secrets.items()
        }

    def _read_parameters(self, names: list[str]) -> Mapping[str, str]:
        """Ten in a call. Never from Powertools' cache: whoever asks has waited for his own time to be over."""
        if not names:
            return {}
        try:
            found: dict[str, Any] = self._ssm.get_parameters_by_name(
                {name: {} for name in names}, decrypt=True, max_age=0, raise_on_error=False
            )
        except _FAILURES as error:
            _LOG.error("Parameters cannot be read: %s", error)
            return {}
        if missing := found.pop("_errors"):
            _LOG.error("There are no such parameters: %s", ", ".join(missing))
        return found

    def _read_secrets(self, names: list[str]) -> Mapping[str, str]:
        found = {}
        for name in names:
            try:
                found[name] = str(self._secrets.get(name, force_fetch=True))
            except _FAILURES as error:
                _LOG.error("The secret %s cannot be read: %s", name, error)
        return found

    def _read_object(self, address: str) -> str:
        """Sent only where it has changed since."""
        bucket, _, key = address.removeprefix("s3://").partition("/")
        etag, text = self._object
        try:
            answer = self._s3.get_object(Bucket=bucket, Key=key, **({"IfNoneMatch": etag} if etag else {}))
            self._object = answer["ETag"], answer["Body"].read().decode()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("304", "NotModified"):
                return text
            raise ConfigError([f"{address} cannot be read: {code}"]) from None
        except (BotoCoreError, UnicodeError) as error:
            raise ConfigError([f"{address} cannot be read: {type(error).__name__}"]) from None
        return self._object[1]

    @cached_property
    def _ssm(self) -> SSMProvider:
        return SSMProvider(boto_config=_PATIENCE)

    @cached_property
    def _secrets(self) -> SecretsProvider:
        return SecretsProvider(boto_config=_PATIENCE)

    @cached_property
    def _s3(self) -> Any:
        return boto3.client("s3", config=_PATIENCE)
