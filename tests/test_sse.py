"""Server-sent events: the specification's own examples, every cut of the bytes, and what providers make of the format.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import sse
from core.sse import Event, EventTooLarge, Reader, encode

LINE_ENDS = pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])


def read(*pieces: bytes) -> list[Event]:
    """All events of a stream that comes in these pieces, its end included."""
    reader = Reader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.close()


@LINE_ENDS
@pytest.mark.parametrize(
    ("text", "events"),
    [
        pytest.param(b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event(b"YHOO\n+2\n10")], id="data in several lines"),
        pytest.param(
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [Event(b"first event"), Event(b"second event"), Event(b" third event")],
            id="a comment, ids, a missing and a double space",
        ),
        pytest.param(b"data\n\ndata\ndata\n\n", [Event(b""), Event(b"\n")], id="a field name alone is empty data"),
        pytest.param(b"data:test\n\ndata: test\n\n", [Event(b"test"), Event(b"test")], id="one space is left out"),
        pytest.param(
            b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
            [Event(b"73857293", "add"), Event(b"2153", "remove"), Event(b"113411", "add")],
            id="event names",
        ),
        pytest.param(b"event: add\n\ndata: 1\n\n", [Event(b"1")], id="a name without data ends with its block"),
        pytest.param(b"event: a\nevent: b\ndata: 1\n\n", [Event(b"1", "b")], id="the last name holds"),
        pytest.param(b"event: add\ndata: 1\n\ndata: 2\n\n", [Event(b"1", "add"), Event(b"2")], id="a name holds once"),
        pytest.param(b"retry: 10\nid: 1\n\ndata: 1\n\n", [Event(b"1")], id="id and retry are no events"),
        pytest.param(b"Data: 1\ndata : 2\nfoo: 3\n data: 4\n\n", [], id="unknown fields are ignored"),
        pytest.param(b": a\ndata: 1\n:b\ndata: 2\n:\n\n", [Event(b"1\n2")], id="comments inside an event"),
        pytest.param(b"data: a: b\n\n", [Event(b"a: b")], id="only the first colon counts"),
        pytest.param(b"\n\n\ndata: 1\n\n\n\n", [Event(b"1")], id="empty lines alone are no events"),
        pytest.param(b"\xef\xbb\xbfdata: 1\n\n", [Event(b"1")], id="one BOM at the start is no part of the stream"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\n", [], id="a second BOM is"),
        pytest.param(b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [Event(b"1")], id="so is one further on"),
        pytest.param(b"\xef\xbb\xbf\ndata: 1\n\n", [Event(b"1")], id="a BOM before an empty line"),
        pytest.param(b"data: \xff\xfe\n\n", [Event(b"\xff\xfe")], id="data need not be text"),
        pytest.param(b"event: \xff\ndata: 1\n\n", [Event(b"1", "\N{REPLACEMENT CHARACTER}")], id="a broken name"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_the_format_is_read_as_the_specification_says(text: bytes, events: list[Event], end: bytes) -> None:
    assert read(text.replace(b"\n", end)) == events


@pytest.mark.parametrize(
    "text", [b"data: 1", b"data: 1\n", b"data: 1\r", b"data: 1\r\n", b"event: \ndata: 1\n: comment", b"data: 1\nid: 7"]
)
def test_an_event_whose_empty_line_is_missing_is_given_out_at_the_end(text: bytes) -> None:
    """Where we differ from a browser on purpose: several providers leave out the line after `[DONE]`."""
    reader = Reader()
    assert reader.feed(text) == []
    assert reader.close() == [Event(b"1")]
    assert reader.close() == []


@pytest.mark.parametrize("text", [b"", b"data: 1\n\n", b"data: 1\r\n\r\n", b"data: 1\n\n: bye", b"data: 1\n\nevent: x"])
def test_nothing_is_given_out_at_the_end_that_was_already_or_is_no_event(text: bytes) -> None:
    reader = Reader()
    reader.feed(text)
    assert reader.close() == []


@pytest.mark.parametrize("text", [b"data: 1\n\n", b"data: 1\r\r", b"data: 1\r\n\r", b"data: 1\r\n\r\n", b"data: 1\n\r"])
def test_an_event_is_given_out_with_the_byte_that_ends_it(text: bytes) -> None:
    """An event that ends with CR does not wait for an LF that may never come."""
    reader = Reader()
    given_out = [reader.feed(text[at : at + 1]) for at in range(len(text))]
    assert [event for events in given_out for event in events] == [Event(b"1")]
    assert Reader().feed(text) == [Event(b"1")]
    if not text.endswith(b"\r\n"):
        assert given_out[-1] == [Event(b"1")]


def test_an_lf_that_comes_after_its_cr_ends_no_second_line() -> None:
    reader = Reader()
    assert reader.feed(b"data: 1\r") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"\n") == []
    assert reader.feed(b"data: 2\r") == []
    assert reader.feed(b"\n\r") == [Event(b"1\n2")]
    assert reader.feed(b"\ndata: 3\n\n") == [Event(b"3")]


_DATA_LINE = st.binary(max_size=12).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))
_EVENTS = st.lists(
    st.builds(
        lambda lines, name: Event(b"\n".join(lines), name),
        st.lists(_DATA_LINE, min_size=1, max_size=3),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=5),
    ),
    max_size=5,
)


@st.composite
def _streams(draw: st.DrawFn) -> tuple[list[Event], list[bytes]]:
    """Events, and the bytes of a stream of them: any line end at each line, noise between, cut anywhere."""
    events = draw(_EVENTS)
    lines: list[bytes] = []
    for event in events:
        lines += draw(st.lists(st.sampled_from([b"", b": ping", b":", b"id: 1", b"retry: 5", b"x"]), max_size=2))
        lines += [b"event: " + event.name.encode()] if event.name else []
        lines += [b"data: " + line for line in event.data.split(b"\n")] + [b""]
    ends = draw(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=len(lines), max_size=len(lines)))
    text = b"".join(line + end for line, end in zip(lines, _unambiguous(lines, ends), strict=True))
    text = draw(st.sampled_from([b"", sse.BOM])) + text
    borders = sorted(draw(st.sets(st.integers(0, len(text)), max_size=len(text))))
    pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    return events, pieces


def _unambiguous(lines: list[bytes], ends: list[bytes]) -> list[bytes]:
    """CR, an empty line, LF would be one CRLF: the empty line is ended by CR then."""
    ends = list(ends)
    for at in range(1, len(ends)):
        if not lines[at] and ends[at - 1] == b"\r" and ends[at] == b"\n":
            ends[at] = b"\r"
    return ends


@settings(deadline=None)
@given(_streams())
@example(([Event(b"1")], [b"data: 1\r", b"\n", b"\r", b"\n"]))
@example(([Event(b"1")], [b"\xef", b"\xbb", b"\xbfdata: 1\n\n"]))
def test_events_read_back_the_same_wherever_the_bytes_are_cut(stream: tuple[list[Event], list[bytes]]) -> None:
    events, pieces = stream
    assert read(*pieces) == events
    assert read(b"".join(pieces)) == events
    assert read(*(bytes([byte]) for byte in b"".join(pieces))) == events


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=8))
def test_any_bytes_cut_anywhere_mean_what_they_mean_in_one_piece(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
@example([b""])
@example([b"a\r\nb\rc\nd"])
@example([b"ends with a line break\n"])
@example([b" begins with a space"])
def test_what_is_encoded_reads_back_with_its_line_breaks_as_lf(payloads: list[bytes]) -> None:
    text = b"".join(encode(data) for data in payloads)
    assert read(text) == [Event(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")) for data in payloads]


@pytest.mark.parametrize(
    ("data", "wire"),
    [(b"{}", b"data: {}\n\n"), (b"a\nb", b"data: a\ndata: b\n\n"), (b"[DONE]", sse.DONE), (b"", b"data: \n\n")],
)
def test_an_event_is_encoded_in_its_plainest_form(data: bytes, wire: bytes) -> None:
    assert encode(data) == wire


def test_a_keep_alive_is_no_event_and_parts_none() -> None:
    assert read(b"data: 1\n", sse.KEEP_ALIVE.rstrip(b"\n") + b"\n", b"data: 2\n\n", sse.KEEP_ALIVE) == [Event(b"1\n2")]


@pytest.mark.parametrize(
    "begin", [b"data: ", b": a comment without end ", b"event: ", b""], ids=["data", "comment", "name", "field"]
)
def test_a_line_without_end_is_an_error_when_it_passes_the_limit(begin: bytes) -> None:
    reader = Reader()
    assert reader.feed(begin.ljust(sse.MAX_EVENT_BYTES, b"x")) == []
    with pytest.raises(EventTooLarge):
        reader.feed(b"x")


def test_an_event_of_many_lines_without_end_is_an_error_too() -> None:
    reader, lines = Reader(), b"data: x\n" * 2**17
    for _ in range(sse.MAX_EVENT_BYTES // len(lines)):
        assert reader.feed(lines) == []
    with pytest.raises(EventTooLarge):
        reader.feed(lines)


def test_the_limit_is_of_one_event_not_of_the_stream() -> None:
    reader = Reader()
    event = b"data: " + bytes(2**20).replace(b"\0", b"x") + b"\n\n"
    given_out = sum(len(reader.feed(event)) for _ in range(sse.MAX_EVENT_BYTES // len(event) + 2))
    assert given_out == sse.MAX_EVENT_BYTES // len(event) + 2


def test_a_large_event_in_tiny_pieces_costs_the_same_for_each_piece() -> None:
    """What has come is not read or copied again with every further piece: that would be some twenty gigabytes here."""
    size, step = 2 * 2**20, 64
    reader, piece = Reader(), b"x" * step
    reader.feed(b"data: ")
    spent = []
    for _ in range(4):
        started = time.process_time()
        for _ in range(size // step // 4):
            assert reader.feed(piece) == []
        spent.append(time.process_time() - started)
    assert spent[-1] < 4 * spent[0] + 0.25
    assert reader.feed(b"\n\n") == [Event(b"x" * size)]
