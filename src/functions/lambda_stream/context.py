"""What the handler may know of the function and of the invocation, by the names that Lambda's own runtime gives."""

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Function:
    """The same for every invocation."""

    name: str = ""
    version: str = ""
    memory_mb: str = ""
    log_group: str = ""
    log_stream: str = ""


class Context:
    """As in https://docs.aws.amazon.com/lambda/latest/dg/python-context.html, as far as HTTP events have it."""

    identity: Any = None
    client_context: Any = None

    def __init__(self, function: Function, *, request_id: str, function_arn: str, deadline_ms: int) -> None:
        self.function_name = function.name
        self.function_version = function.version
        self.memory_limit_in_mb = function.memory_mb
        self.log_group_name = function.log_group
        self.log_stream_name = function.log_stream
        self.aws_request_id = request_id
        self.invoked_function_arn = function_arn
        self._deadline_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        return max(0, self._deadline_ms - int(time.time() * 1000))
