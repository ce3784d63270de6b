"""What reads bytes of strangers, each as a function that must raise nothing whatever it is given, and be quick.

`test_fuzz.py` gives them samples, `fuzz.py` what a coverage-guided search makes of these.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import orjson

from core import sse
from core.chat import Chat, parse_chat
from core.drawing import Drawing, parse_drawing
from core.embedding import parse_embedding
from core.errors import InvalidRequest, StreamNotRecovered, UpstreamError
from core.need import need_of_chat
from core.providers import PROVIDERS, find_provider
from core.providers.dialect import Completion, Drawings, Endpoint, Later, Provider
from core.providers.drawn import answer_of
from core.recovery import Continuation, Sent
from core.retry_after import parse_wait
from core.sse import EventTooLarge, Reader
from core.stream import Chunk, Item, Progress, is_real
from core.telemetry import tokens_in
from tests.provider_samples import NOW, OF_TRANSLATED, SAMPLES, STAMP, Samples

Target = Callable[[bytes], None]
ENDPOINT = Endpoint(url="https://provider.example/x", upstream_model="m", token="key-0123")
ASKED = Chat({"messages": [{"role": "user", "content": "Hi"}], "stream": True}, 0)
DRAWING = Drawing({"prompt": "a cat"}, 0)
STATUSES = (400, 401, 402, 403, 404, 413, 422, 429, 500, 503)
# One row of each way to read: the others are the same code.
READERS = {row.name: row for row in (*PROVIDERS.values(), find_provider("unknown")) if row.name != "demo"}


def answers(row: Provider) -> Target:
    """A provider's stream, whole answer and failure. In one piece or cut anywhere, a stream means the same."""

    def read(raw: bytes) -> None:
        whole = list(decoded(row, [raw]))
        middle = len(raw) // 2
        assert comparable(whole) == comparable(decoded(row, [raw[:middle], raw[middle:]]))
        progress, going_on = Progress(), Continuation.of(Sent(text="Hi"), ASKED, ASKED)
        for item in whole:
            if isinstance(item, Chunk):
                progress.note(item)
                is_real(item)
                orjson.loads(item.encode())
                with contextlib.suppress(StreamNotRecovered):
                    going_on.take(item)
        tokens_in(progress.usage)
        judge(row.dialect.completion(raw, ASKED, STAMP))
        if row.embeddings is not None:
            judge(row.embeddings.embedding(raw))
        if row.images is not None:
            look_at(row.images.drawings(raw, ENDPOINT))
        status = STATUSES[len(raw) % len(STATUSES)]
        judge(row.failure(status, {"retry-after": raw[:40].decode("latin-1")}, raw, now=NOW))

    return read


def decoded(row: Provider, pieces: list[bytes]) -> Iterator[Item]:
    decoder = row.dialect.decoder(ASKED, STAMP)
    for piece in pieces:
        yield from decoder.feed(piece)
    yield from decoder.close()


def comparable(items: Iterable[Item]) -> list[object]:
    """Up to where the gateway reads."""
    found: list[object] = []
    for item in items:
        found.append(item.encode() if isinstance(item, Chunk) else type(item))
        if not isinstance(item, Chunk):
            break
    return found


def judge(found: Completion | UpstreamError) -> None:
    if isinstance(found, Completion):
        assert isinstance(orjson.loads(found.raw), dict)
        tokens_in(found.body.get("usage"))
    else:
        assert 400 <= found.status < 600
        assert found.status not in (401, 403)
        orjson.dumps(found.body())


def look_at(found: Drawings | Later | UpstreamError) -> None:
    if isinstance(found, UpstreamError):
        judge(found)
    elif isinstance(found, Drawings):
        assert found.drawn
        judge(answer_of(DRAWING, found, now=NOW))


def requests(raw: bytes) -> None:
    """A caller's body, and what each provider is sent for it."""
    with contextlib.suppress(InvalidRequest):
        parse_embedding(raw)
    with contextlib.suppress(InvalidRequest):
        drawing = parse_drawing(raw)
        for row in READERS.values():
            if row.images is not None:
                assert row.images.drawing_request(ENDPOINT, drawing).request.url
    try:
        chat = parse_chat(raw)
    except InvalidRequest:
        return
    _ = need_of_chat(chat.body, chat.length, answers=chat.answers).tokens
    for row in READERS.values():
        with contextlib.suppress(UpstreamError):
            orjson.loads(row.dialect.request(ENDPOINT, chat.with_usage()).request.body)


def events(raw: bytes) -> None:
    """Server-sent events, and what we make of one: it reads back as one."""
    reader = Reader()
    with contextlib.suppress(EventTooLarge):
        for event in (*reader.feed(raw), *reader.close()):
            again = Reader().feed(sse.encode(event.data))
            assert [one.data for one in again] == [event.data]


def waits(raw: bytes) -> None:
    wait = parse_wait(raw.decode("latin-1"), NOW)
    assert wait is None or wait >= 0


TARGETS: list[Target] = [requests, events, waits, *map(answers, READERS.values())]


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: the first byte chooses the target."""
    for at, name in enumerate(READERS, TARGETS.index(waits) + 1):
        for path in sorted(_samples(name).folder.iterdir()) if name in {**SAMPLES, **OF_TRANSLATED} else ():
            yield bytes([at]) + path.read_bytes()
    yield bytes([TARGETS.index(requests)]) + orjson.dumps(ASKED.body)
    yield bytes([TARGETS.index(requests)]) + orjson.dumps({**DRAWING.body, "n": 2, "size": "64x64", "seed": 7})
    yield bytes([TARGETS.index(events)]) + b"event: a\ndata: {}\ndata: {}\n\n"
    yield bytes([TARGETS.index(waits)]) + b"1m2.5s"


def _samples(name: str) -> Samples:
    return {**SAMPLES, **OF_TRANSLATED}[name]


def take(data: bytes) -> None:
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
