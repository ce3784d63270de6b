"""What Google's generateContent answers, as OpenAI's chunks, answers and failures.

https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..errors import Refused, Transient, UpstreamError
from ..retry_after import parse_wait
from ..stream import Item
from .answering import MessageWriter, StreamWriter, completion_of, token_of, usage_of
from .dialect import Completion, Stamp
from .exchange import broken, read_answer, read_json, read_report
from .failures import Report, classify, report_of

Json = dict[str, Any]
FINISHES = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}


@dataclass(slots=True)
class GoogleTranslation:
    """Every event holds a part of the answer; older models say in each why it finished, so that is said last."""

    writer: StreamWriter
    _usage: Json = field(default_factory=dict)
    _finishes: dict[int, str] = field(default_factory=dict)
    _calls: int = 0
    _has_begun: bool = False
    _has_ended: bool = False

    @classmethod
    def of(cls, stamp: Stamp, *, wants_usage: bool) -> "GoogleTranslation":
        return cls(StreamWriter.of(stamp, wants_usage=wants_usage))

    def take(self, body: Json, event: str) -> Iterator[Item]:  # noqa: ARG002 - they have no names
        if body.get("error"):
            yield judge(report_of(body), body)
            return
        if not self._has_begun:  # one name in all chunks
            self._has_begun = True
            self.writer.id = body.get("responseId") or self.writer.id
            self.writer.model = body.get("modelVersion") or self.writer.model
        self._usage = body.get("usageMetadata") or self._usage
        if blocked := blocked_prompt(body):
            yield blocked
        for candidate in body.get("candidates") or ():
            yield from self._candidate(candidate)

    def _candidate(self, candidate: Json) -> Iterator[Item]:
        index = candidate.get("index") or 0
        self.writer.rate(tokens_of(candidate), index)
        for part in (candidate.get("content") or {}).get("parts") or ():
            yield from self._part(part, index)
        reason = candidate.get("finishReason")
        if reason in FINISHES:
            self._finishes[index] = FINISHES[reason]
        elif reason:
            yield broken(reason)

    def _part(self, part: Json, index: int) -> Iterator[Item]:
        signature = part.get("thoughtSignature")
        if part.get("functionCall"):
            call = whole_call(part["functionCall"])
            self._calls += 1
            call_id = call.get("id") or f"call_{self.writer.id[-12:]}_{self._calls}"
            yield self.writer.call(call_id, call["name"], arguments(call), index=index, extra=signed(signature))
        elif part.get("thought"):
            if part.get("text"):
                yield self.writer.reasoning(part["text"], index)
        elif delta := spoken(part):
            yield self.writer.delta(delta, index)

    def end(self) -> Iterator[Item]:
        if self._has_ended or not self._finishes:
            return
        self._has_ended = True
        for index, reason in sorted(self._finishes.items()):
            yield from self.writer.finish(reason, index)
        if self._usage.get("promptTokenCount") is not None:
            yield self.writer.usage(usage(self._usage))


def completion(raw: bytes, stamp: Stamp) -> Completion | UpstreamError:
    """MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL, OTHER and what is yet to come are reasons, but no answer's."""
    return read_answer(
        raw,
        lambda body: blocked_prompt(body) or _completion(body, stamp),
        lambda body: judge(report_of(body), body),
    )


def _completion(body: Json, stamp: Stamp) -> Completion | UpstreamError:
    choices, answer_id = [], body.get("responseId") or stamp.id
    for candidate in body.get("candidates") or ():
        reason, writer = candidate.get("finishReason"), MessageWriter(tokens=tokens_of(candidate))
        if reason not in FINISHES:
            return broken(reason)
        for part in (candidate.get("content") or {}).get("parts") or ():
            _write(writer, part, answer_id)
        choices.append(writer.choice(FINISHES[reason], candidate.get("index") or 0))
    if not choices:
        return Transient("The provider's answer holds no candidates.")
    said = body.get("usageMetadata") or {}
    used = usage(said) if said.get("promptTokenCount") is not None else None
    return completion_of(stamp, choices, used, id=answer_id, model=body.get("modelVersion") or "")


def _write(writer: MessageWriter, part: Json, answer_id: str) -> None:
    signature = part.get("thoughtSignature")
    if part.get("functionCall"):
        call = whole_call(part["functionCall"])
        call_id = call.get("id") or f"call_{answer_id[-12:]}_{len(writer.calls) + 1}"
        writer.call(call_id, call["name"], arguments(call), extra=signed(signature))
    elif part.get("thought"):
        writer.reasoning += part.get("text") or ""
    else:
        delta = spoken(part)
        writer.text += delta.pop("content", "")
        if "images" in delta:
            delta["images"] = [*writer.extra.get("images", ()), *delta["images"]]
        writer.extra |= delta


def spoken(part: Json) -> Json:
    """Text, or a picture as OpenRouter has it (OpenAI's own form has none), with the signature that came along."""
    said: Json = {}
    if part.get("text"):
        said["content"] = part["text"]
    elif inline := part.get("inlineData"):
        url = f"data:{inline.get('mimeType', 'image/png')};base64,{inline['data']}"
        said["images"] = [{"type": "image_url", "image_url": {"url": url}}]
    if part.get("thoughtSignature"):
        said["extra_content"] = signed(part["thoughtSignature"])
    return said


def whole_call(call: Json) -> Json:
    """Calls in pieces come only to those who ask for them; half a call must not pass for one. Raises ValueError."""
    if call.get("willContinue") or "partialArgs" in call:
        raise ValueError("a call in pieces")
    return call


def tokens_of(candidate: Json) -> list[Json]:
    """How likely its tokens were. What is certain has no number: zero is left out."""
    result = candidate.get("logprobsResult") or {}
    chosen, tops = result.get("chosenCandidates") or [], result.get("topCandidates") or []
    places = [*(top.get("candidates") or () for top in tops), *[()] * len(chosen)]
    return [token_of(*_rated(token), map(_rated, place)) for token, place in zip(chosen, places, strict=False)]


def _rated(token: Json) -> tuple[str, float]:
    return token.get("token") or "", token.get("logProbability") or 0.0


def arguments(call: Json) -> str:
    return orjson.dumps(call.get("args") or {}).decode()


def signed(signature: str | None) -> Json:
    """Google's own place for it in OpenAI's form: https://ai.google.dev/gemini-api/docs/thought-signatures"""
    return {"google": {"thought_signature": signature}} if signature else {}


def usage(said: Json) -> Json:
    """Thoughts are part of what is answered, what tools read part of what is asked."""
    thoughts = said.get("thoughtsTokenCount") or 0
    return usage_of(
        (said.get("promptTokenCount") or 0) + (said.get("toolUsePromptTokenCount") or 0),
        (said.get("candidatesTokenCount") or 0) + thoughts,
        cached=said.get("cachedContentTokenCount"),
        reasoning=said.get("thoughtsTokenCount"),
    )


def blocked_prompt(body: Json) -> UpstreamError | None:
    reason = (body.get("promptFeedback") or {}).get("blockReason")
    return Refused(f"The provider refused the request: {reason}.") if reason and not body.get("candidates") else None


def failure(status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
    return judge(read_report(status, headers, raw, now=now), read_json(raw))


def judge(report: Report, body: Any) -> UpstreamError:
    """Its 429 speaks of "your current quota" whichever it is; which one, and until when, stands in the details."""
    details = _details(body)
    quotas = [str(one.get("quotaId", "")) for detail in details for one in detail.get("violations") or ()]
    waits = [parse_wait(str(detail["retryDelay"]), now=0.0) for detail in details if detail.get("retryDelay")]
    if report.status == 429:
        is_daily = any("PerDay" in quota for quota in quotas)
        report = replace(
            report,
            message="",
            type="per day" if is_daily else "",
            retry_after_s=None if is_daily else max((s for s in waits if s is not None), default=report.retry_after_s),
        )
    return classify(report)


def _details(body: Any) -> list[Json]:
    body = body[0] if isinstance(body, list) and body else body
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
