"""From an `Authorization` header to a caller, or to a 401."""

import hashlib

import pytest

from core.auth import Keyring
from core.config import KeyEntry
from core.errors import Unauthorized

APP, CI = "app-canary-0123456789abcdef", "ci-canary-fedcba9876543210"
KEYS = Keyring(
    [
        KeyEntry(name="app", token=APP, models=["m1"]),
        KeyEntry(name="ci", sha256=hashlib.sha256(CI.encode()).hexdigest().upper()),
    ]
)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"Bearer {APP}", "app"),
        (f"bearer {APP}", "app"),
        (f"BEARER {APP}", "app"),
        (f"Bearer   {APP} ", "app"),
        (f"Bearer {CI}", "ci"),
    ],
)
def test_a_key_names_its_caller(header: str, name: str) -> None:
    assert KEYS.identify(header.encode()).name == name


def test_a_caller_carries_what_its_key_is_confined_to() -> None:
    assert KEYS.identify(f"Bearer {APP}".encode()).entry.models == ["m1"]
    assert KEYS.identify(f"Bearer {CI}".encode()).entry.models is None


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer    ", APP, f"Basic {APP}", f"Token {APP}", f":{APP}"]
)
def test_without_a_bearer_token_the_caller_is_told_how_to_send_one(header: str) -> None:
    with pytest.raises(Unauthorized, match=r"Send it as `Authorization: Bearer <key>`") as caught:
        KEYS.identify(header.encode())
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "token",
    [
        APP[:-1],
        APP + "x",
        APP.upper(),
        f"{APP} {APP}",
        f"{APP},",
        f'"{APP}"',
        hashlib.sha256(CI.encode()).hexdigest(),
        hashlib.sha256(APP.encode()).hexdigest(),
        "\udce4" * 20,
        "\N{SNOWMAN}" * 20,
        "x" * 100_000,
    ],
    ids=["cut", "longer", "upper case", "twice", "comma", "quoted", "hash", "other hash", "surrogates", "snow", "long"],
)
def test_any_other_token_is_unknown_and_never_repeated(token: str) -> None:
    with pytest.raises(Unauthorized, match="is not known to this gateway") as caught:
        KEYS.identify(f"Bearer {token}".encode(errors="surrogateescape"))
    assert token not in caught.value.message


def test_a_token_may_have_letters_beyond_ascii() -> None:
    """Clients send such a token as UTF-8."""
    token = "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel-\N{CYRILLIC SMALL LETTER ZHE}-0123456789"
    keys = Keyring([KeyEntry(name="app", token=token)])
    assert keys.identify(f"Bearer {token}".encode()).name == "app"


def test_nobody_is_known_without_keys() -> None:
    with pytest.raises(Unauthorized, match="is not known"):
        Keyring([]).identify(f"Bearer {APP}".encode())


def test_tokens_are_kept_as_hashes() -> None:
    """A caller ends up in logs and in tracebacks."""
    caller = KEYS.identify(f"Bearer {APP}".encode())
    assert caller.digest == hashlib.sha256(APP.encode()).digest()
    assert APP not in f"{caller!r} {caller} {vars(KEYS)}"
