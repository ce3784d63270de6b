"""The credentials that the environment gives: variables, files, roles. botocore finds them, and renews what expires.

botocore is imported on first use, in a thread; nothing of it is loaded where no provider needs it.
"""

import asyncio
from typing import Any

from .aws_signature import Credentials
from .errors import Operator


class AwsCredentials:
    def __init__(self) -> None:
        self._source: Any = None

    async def get(self) -> Credentials:
        """Raises Operator when there are none."""
        return await asyncio.to_thread(self._get)

    def _get(self) -> Credentials:
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session

        try:
            self._source = self._source or get_session().get_credentials()
            found = self._source and self._source.get_frozen_credentials()
        except BotoCoreError as error:
            raise Operator("The gateway's AWS credentials cannot be used.", reached=False) from error
        if not found:
            raise Operator("The gateway has no AWS credentials.", reached=False)
        return Credentials(found.access_key, found.secret_key, found.token)
