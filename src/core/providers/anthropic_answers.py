"""What Anthropic's Messages API answers, as OpenAI's chunks, answers and failures.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..errors import Transient, UpstreamError
from ..stream import Done, Item
from .answering import MessageWriter, StreamWriter, completion_of, usage_of
from .dialect import Completion, Stamp
from .exchange import read_answer, read_json, read_report
from .failures import Report, classify, report_of

Json = dict[str, Any]
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
THOUGHTS = ("thinking", "redacted_thinking")
_CODES = {"enforced_spend_limit_reached": "insufficient_quota"}


@dataclass(slots=True)
class AnthropicTranslation:
    """Blocks come one after another, each started, filled and stopped."""

    writer: StreamWriter
    _usage: Json = field(default_factory=dict)
    _block: Json = field(default_factory=dict)  # the one that is open
    _thoughts: list[Json] = field(default_factory=list)  # whole, and not yet given to a call
    _arguments: str = ""
    _has_finished: bool = False
    _has_ended: bool = False

    @classmethod
    def of(cls, stamp: Stamp, *, wants_usage: bool) -> "AnthropicTranslation":
        return cls(StreamWriter.of(stamp, wants_usage=wants_usage))

    def take(self, body: Json, event: str) -> Iterator[Item]:
        kind = body.get("type", event)
        if kind == "error" or body.get("error"):
            yield judge(report_of(body))
        elif kind == "message_start":
            message = body["message"]
            self.writer.id = message.get("id") or self.writer.id
            self.writer.model = message.get("model") or self.writer.model
            self._usage |= _known(message.get("usage"))
        elif kind == "content_block_start":
            self._block, self._arguments = dict(body["content_block"]), ""
            yield from self._started()
        elif kind == "content_block_delta":
            yield from self._delta(body["delta"])
        elif kind == "content_block_stop":
            yield from self._stopped()
        elif kind == "message_delta":
            self._usage |= _known(body.get("usage"))
            if reason := body["delta"].get("stop_reason"):
                self._has_finished = True
                yield from self.writer.finish(FINISHES.get(reason, "stop"))
        elif kind == "message_stop":
            yield from self.end()
            yield Done()

    def end(self) -> Iterator[Item]:
        if self._has_finished and not self._has_ended and self._usage:
            self._has_ended = True
            yield self.writer.usage(usage(self._usage))

    def _started(self) -> Iterator[Item]:
        kind = self._block["type"]
        if kind == "text" and self._block.get("text"):
            yield self.writer.text(self._block["text"])
        elif kind == "thinking" and self._block.get("thinking"):
            yield self.writer.reasoning(self._block["thinking"])
        elif kind == "tool_use":
            yield self.writer.call(self._block["id"], self._block["name"], extra=self._take_thoughts())

    def _delta(self, delta: Json) -> Iterator[Item]:
        kind = delta["type"]
        if kind == "text_delta":
            yield self.writer.text(delta["text"])
        elif kind == "thinking_delta":
            self._block["thinking"] = self._block.get("thinking", "") + delta["thinking"]
            yield self.writer.reasoning(delta["thinking"])
        elif kind == "signature_delta":
            self._block["signature"] = self._block.get("signature", "") + delta["signature"]
        elif kind == "input_json_delta" and self._block.get("type") == "tool_use" and delta["partial_json"]:
            self._arguments += delta["partial_json"]
            yield self.writer.more_arguments(delta["partial_json"])

    def _stopped(self) -> Iterator[Item]:
        block, self._block = self._block, {}
        if block.get("type") in THOUGHTS:
            self._thoughts.append(block)
        elif block.get("type") == "tool_use" and not self._arguments:  # of a call without, or given as a whole
            yield self.writer.more_arguments(orjson.dumps(block.get("input") or {}).decode())

    def _take_thoughts(self) -> Json:
        thoughts, self._thoughts = self._thoughts, []
        return signed(thoughts)


def completion(raw: bytes, stamp: Stamp) -> Completion | UpstreamError:
    return read_answer(raw, lambda body: _completion(body, stamp), lambda body: judge(report_of(body)))


def _completion(body: Json, stamp: Stamp) -> Completion | UpstreamError:
    writer, thoughts = MessageWriter(), list[Json]()
    for block in body["content"]:
        kind = block["type"]
        if kind == "text":
            writer.text += block["text"]
        elif kind in THOUGHTS:
            writer.reasoning += block.get("thinking", "")
            thoughts.append(block)
        elif kind == "tool_use":
            writer.call(block["id"], block["name"], orjson.dumps(block["input"]).decode(), extra=signed(thoughts))
            thoughts = []
    if not body.get("stop_reason"):
        return Transient("The provider's answer is not finished.")
    choice = writer.choice(FINISHES.get(body["stop_reason"], "stop"))
    used = usage(_known(body.get("usage"))) if body.get("usage") else None
    return completion_of(stamp, [choice], used, id=body.get("id") or "", model=body.get("model") or "")


def signed(thoughts: list[Json]) -> Json:
    """For `extra_content` of the call that they led to: a model that thinks wants them back with its result."""
    return {"anthropic": {"thinking": thoughts}} if thoughts else {}


def usage(said: Json) -> Json:
    """What is read from a cache or written into it comes on top of `input_tokens`."""
    cached = said.get("cache_read_input_tokens", 0)
    prompt = said.get("input_tokens", 0) + cached + said.get("cache_creation_input_tokens", 0)
    return usage_of(prompt, said.get("output_tokens", 0), cached=cached)


def _known(said: Json | None) -> Json:
    return {name: value for name, value in (said or {}).items() if isinstance(value, int)}


def failure(status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
    report = read_report(status, headers, raw, now=now)
    body = read_json(raw)
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    code = details.get("error_code") if isinstance(details, dict) else None
    return judge(replace(report, code=_CODES.get(str(code), report.code)))


def judge(report: Report) -> UpstreamError:
    if report.status == 400 and "credit balance" in report.message:
        report = replace(report, status=402)
    return classify(report)
