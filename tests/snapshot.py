"""The function up to its snapshot, then two environments that are made of it, as a process of its own.

Prints in JSON what was loaded and connected, and what is different in the two.
"""

import json
import random
import sys
from pathlib import Path

from core.front_door import new_request_id
from functions.handler import handler

HEAVY = ("boto3", "aws_lambda_powertools", "fastapi", "uvicorn", "httpx", "click")


def loaded() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def sockets() -> list[str]:
    files = (path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return [name for name in files if name.startswith("socket")]


def environment(dice: object) -> list[str]:
    random.setstate(dice)  # type: ignore[arg-type]
    for hook in handler.after_restore:
        hook()
    return [str(random.random()), new_request_id()]


at_start = loaded()
for hook in handler.before_snapshot:
    hook()
snapshot = {"loaded": loaded(), "sockets": sockets()}
dice = random.getstate()
print(json.dumps({"at_start": at_start, **snapshot, "made_of_it": [environment(dice), environment(dice)]}))
