"""What Amazon Bedrock's Converse and ConverseStream answer, as OpenAI's chunks, answers and failures.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..errors import Transient, UpstreamError
from ..stream import Item
from .answering import MessageWriter, StreamWriter, completion_of, usage_of
from .dialect import Completion, Stamp
from .eventstream import BadMessage, Message, MessageReader
from .exchange import broken, odd_answer, read_answer, read_json, read_report
from .failures import Report, classify, report_of

Json = dict[str, Any]
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_STATUSES = {
    "throttlingException": 429,
    "serviceUnavailableException": 503,
    "validationException": 400,
    "modelTimeoutException": 408,
    "accessDeniedException": 403,
}


@dataclass(slots=True)
class ConverseDecoder:
    writer: StreamWriter
    _reader: MessageReader = field(default_factory=MessageReader)
    _is_call: bool = False  # the open block
    _arguments: str = ""
    _thought: Json = field(default_factory=dict)
    _thoughts: list[Json] = field(default_factory=list)

    @classmethod
    def of(cls, stamp: Stamp, *, wants_usage: bool) -> "ConverseDecoder":
        return cls(StreamWriter.of(stamp, wants_usage=wants_usage))

    def feed(self, piece: bytes) -> list[Item]:
        items: list[Item] = []
        try:
            for message in self._reader.feed(piece):
                items += self._take(message)
        except BadMessage:
            items.append(Transient("The provider sent what is not an event stream."))
        except (AttributeError, KeyError, TypeError, ValueError):
            items.append(odd_answer())
        return items

    def close(self) -> list[Item]:
        return [Transient("The provider's stream broke off in the middle of an event.")] if self._reader.is_cut else []

    def _take(self, message: Message) -> Iterator[Item]:
        headers, body = message.headers, read_json(message.payload)
        if headers.get(":message-type") in ("exception", "error"):
            name = headers.get(":exception-type") or headers.get(":error-code") or ""
            report = report_of(body, status=_STATUSES.get(name, 502))
            yield classify(replace(report, code=name, message=report.message or headers.get(":error-message", "")))
            return
        event = headers.get(":event-type")
        if event == "contentBlockStart":
            yield from self._started(body.get("start") or {})
        elif event == "contentBlockDelta":
            yield from self._delta(body["delta"])
        elif event == "contentBlockStop":
            yield from self._stopped()
        elif event == "messageStop":
            reason = body["stopReason"]
            yield from self.writer.finish(FINISHES[reason]) if reason in FINISHES else [broken(reason)]
        elif event == "metadata" and body.get("usage"):
            yield self.writer.usage(usage(body["usage"]))

    def _started(self, start: Json) -> Iterator[Item]:
        self._is_call = "toolUse" in start
        if self._is_call:
            self._arguments = ""
            extra, self._thoughts = signed(self._thoughts), []
            yield self.writer.call(start["toolUse"]["toolUseId"], start["toolUse"]["name"], extra=extra)

    def _delta(self, delta: Json) -> Iterator[Item]:
        if delta.get("text"):
            yield self.writer.text(delta["text"])
        elif "toolUse" in delta:
            self._arguments += delta["toolUse"]["input"]
            yield self.writer.more_arguments(delta["toolUse"]["input"])
        elif thought := delta.get("reasoningContent"):
            for name, value in thought.items():
                self._thought[name] = self._thought.get(name, "") + value
            if thought.get("text"):
                yield self.writer.reasoning(thought["text"])

    def _stopped(self) -> Iterator[Item]:
        if self._is_call and not self._arguments:
            yield self.writer.more_arguments("{}")
        if self._thought:
            thought, self._thought = self._thought, {}
            self._thoughts.append(thought if "redactedContent" in thought else {"reasoningText": thought})
        self._is_call = False


def completion(raw: bytes, stamp: Stamp) -> Completion | UpstreamError:
    return read_answer(raw, lambda body: _completion(body, stamp))


def _completion(body: Json, stamp: Stamp) -> Completion | UpstreamError:
    if body.get("stopReason") not in FINISHES:
        return broken(body.get("stopReason"))
    writer, thoughts = MessageWriter(), list[Json]()
    for block in body["output"]["message"]["content"]:
        writer.text += block.get("text", "")
        if thought := block.get("reasoningContent"):
            writer.reasoning += thought.get("reasoningText", {}).get("text", "")
            thoughts.append(thought)
        elif call := block.get("toolUse"):
            arguments = orjson.dumps(call.get("input") or {}).decode()
            writer.call(call["toolUseId"], call["name"], arguments, extra=signed(thoughts))
            thoughts = []
    used = usage(body["usage"]) if body.get("usage") else None
    return completion_of(stamp, [writer.choice(FINISHES[body["stopReason"]])], used)


def signed(thoughts: list[Json]) -> Json:
    """For `extra_content` of the call that they led to: a model that thinks wants them back with its result."""
    return {"bedrock": {"reasoning": thoughts}} if thoughts else {}


def usage(said: Json) -> Json:
    """What is read from a cache or written into it comes on top of `inputTokens`."""
    cached = said.get("cacheReadInputTokens") or 0
    prompt = said["inputTokens"] + cached + (said.get("cacheWriteInputTokens") or 0)
    return usage_of(prompt, said["outputTokens"], cached=cached)


def failure(status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
    """What is wrong stands in a header, `ThrottlingException:http://...`."""
    report = read_report(status, headers, raw, now=now)
    return classify(_named(report, headers.get("x-amzn-errortype", "").partition(":")[0]))


def _named(report: Report, name: str) -> Report:
    if name == "ServiceQuotaExceededException":
        return replace(report, status=429, code="insufficient_quota")
    if name in ("ModelErrorException", "ModelStreamErrorException"):
        return replace(report, status=502, code=name)  # it says 424, but the fault is the model's
    return replace(report, code=report.code or name)
