"""Who calls: from a bearer token to a caller. Tokens are kept as hashes and compared in constant time."""

import hashlib
import hmac
from collections.abc import Sequence

from .admission import Scope
from .catalog import limits_of
from .config import KeyEntry
from .errors import Unauthorized
from .frozen import frozen

LOCAL_TOKEN = "sluice-local-development"  # noqa: S105 - the example's, public, accepted on loopback only


@frozen
class Caller:
    """A configured key: `entry` holds its limits and what it is confined to."""

    name: str
    digest: bytes
    entry: KeyEntry
    scope: Scope


class Keyring:
    def __init__(self, entries: Sequence[KeyEntry]) -> None:
        self.callers = [Caller(entry.name, _digest(entry), entry, _scope(entry)) for entry in entries]

    def identify(self, authorization: bytes) -> Caller:
        """The caller that an `Authorization` header names. Raises Unauthorized."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise Unauthorized("No API key was given. Send it as `Authorization: Bearer <key>`.")
        digest = hashlib.sha256(token.strip()).digest()
        found = [caller for caller in self.callers if hmac.compare_digest(caller.digest, digest)]
        if not found:
            raise Unauthorized("The API key is not known to this gateway.")
        return found[0]


def example_key(entries: Sequence[KeyEntry]) -> str | None:
    """The name of the key that has the example's token; None: nobody has it."""
    try:
        return Keyring(entries).identify(f"Bearer {LOCAL_TOKEN}".encode()).name
    except Unauthorized:
        return None


def _scope(entry: KeyEntry) -> Scope:
    return Scope(f"k#{entry.name}", limits_of(entry), denies_without_store=entry.store_failure == "deny")


def _digest(entry: KeyEntry) -> bytes:
    if entry.sha256 is not None:
        return bytes.fromhex(entry.sha256)
    return hashlib.sha256((entry.token or "").encode()).digest()
