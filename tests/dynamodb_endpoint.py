"""DynamoDB as far as moto's server plays it, on a port of its own.

moto is not atomic: two conditional writes at once may both succeed. So its handler takes one call at a time, and
`test_dynamodb.py` proves first that concurrent increments all land.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moto.dynamodb import responses
from moto.server import ThreadedMotoServer

from core.config.schema import State
from core.store.dynamodb import make_table

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
_ONE_AT_A_TIME = threading.RLock()
_TABLES = itertools.count(1)


@contextmanager
def dynamodb_endpoint() -> Iterator[str]:
    """The address of an endpoint that answers until the block ends."""
    original: Any = responses.DynamoHandler.call_action

    def one_at_a_time(handler: Any) -> Any:
        with _ONE_AT_A_TIME:
            return original(handler)

    responses.DynamoHandler.call_action = one_at_a_time  # type: ignore[method-assign]
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        responses.DynamoHandler.call_action = original  # type: ignore[method-assign]


def fresh_table(endpoint: str, *, timeout_ms: int = 5_000) -> State:
    """The configuration of a table that nobody has used yet."""
    state = State(
        store="dynamodb", table=f"t{next(_TABLES)}", region="eu-west-1", endpoint_url=endpoint, timeout_ms=timeout_ms
    )
    make_table(state)
    return state
