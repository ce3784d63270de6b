"""The function: the gateway behind Lambda's events. `handler` streams under our loop and buffers under Lambda's own.

Environment: SLUICE_CONFIG and SLUICE_CONFIG_TTL (`configuration.py`), POWERTOOLS_SERVICE_NAME (the metrics' dimension
`service`, by default `sluice`), and whatever variables the configuration names: the one that ships, AUTH_TOKEN,
SLUICE_TABLE, SLUICE_STORE and SLUICE_INSTANCES.
"""

import gc
import importlib
import os
import random
import ssl
import time
from collections.abc import Mapping

from core import __version__
from core.app import build

from .configuration import Configuration
from .lambda_stream.adapter import StreamingMangum
from .telemetry import SERVICE, LambdaTelemetry
from .thaw import ThawingApp


def make_handler(env: Mapping[str, str]) -> StreamingMangum:
    """Raises ConfigError and StoreError: then the function does not start, and its log says why."""
    configuration = Configuration(env)
    telemetry = LambdaTelemetry(env.get("POWERTOOLS_SERVICE_NAME") or SERVICE)
    loaded = configuration.read()
    app = build(loaded, telemetry, version=__version__, started=int(time.time()))

    def load() -> None:
        """What requests need goes into the snapshot: modules, and no socket, id or seed."""
        telemetry.load()
        importlib.import_module("core.routes.api")
        configuration.forget()
        gc.collect()  # closes what it was read through
        if loaded.config.state and loaded.config.state.store == "dynamodb":
            importlib.import_module("boto3")

    def restored() -> None:
        random.seed()
        ssl.RAND_add(os.urandom(32), 0.0)

    return StreamingMangum(
        ThawingApp(app, configuration, telemetry), before_snapshot=(load,), after_restore=(restored,)
    )


handler = make_handler(os.environ)
