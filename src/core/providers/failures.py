"""From what a provider says about a failure to one of our errors: status first, then codes, message text last."""

import re
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..errors import UpstreamError
from ..retry_after import parse_wait

_TOO_LONG = re.compile(
    r"context[ _](length|window|size|limit)|maximum context|too many (input )?tokens|prompt is too long"
    r"|input is too long|exceeds? the (maximum|max|model'?s?) .{0,30}(tokens|length)|reduce the length",
    re.IGNORECASE,
)
_REFUSED = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
_UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value", "unsupported_feature", "unknown_parameter"}
_UNSUPPORTED = re.compile(
    r"(does not|doesn't|do not|don't) support|not (supported|enabled)|unsupported"
    r"|must be passed back|missing a thought_signature"  # DeepSeek and Gemini, of what another model never said
    r"|(unknown|unrecognized|unexpected) (parameter|field|argument|role)|extra (inputs|fields) (are )?not permitted",
    re.IGNORECASE,
)
_DAILY = re.compile(r"per[ -]day|daily|byday|per 86400 ?s", re.IGNORECASE)  # a model's own, as far as is known
_EXHAUSTED = re.compile(
    r"insufficient[_ ](quota|balance)|exceeded[_ ](your[_ ])?current[_ ]quota|all available credits"
    rf"|{_DAILY.pattern}",
    re.IGNORECASE,
)
_HINT = re.compile(r"(?:try again|retry|wait)\D{0,12}((?:\d+(?:\.\d+)?(?:ms|[smhd]))+)", re.IGNORECASE)
_UNIT_WORDS = re.compile(r"(?<=\d) ?(milliseconds?|seconds?|secs?|minutes?|mins?|hours?)\b", re.IGNORECASE)
_WRONG_KEY = re.compile(r"api[ _]key[ _](not valid|invalid|expired)|(invalid|incorrect) api[ _]key", re.IGNORECASE)
_BROKE_OFF = ("error", "insufficient_system_resource", "network_error")  # OpenRouter and Mistral; DeepSeek; z.ai
_ERROR_STATUS = re.compile("[45][0-9][0-9]")

# What providers write into `type` or `code` where the status would have been, had the answer not begun with a 200.
_STATUS_OF_WORD = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "tokens": 429,
    "requests": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
    "overloaded": 529,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "timeout": 408,
    "timeout_error": 408,
    "billing_error": 402,
    "request_too_large": 413,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A provider's failure in plain values. `status` is HTTP's, or the one inside the body when HTTP said 200."""

    status: int
    message: str = ""
    type: str = ""
    code: str = ""
    param: str | None = None
    retry_after_s: float | None = None


def error_inside(body: dict[str, Any]) -> Any:
    """The error that an answer with status 200 holds, in any of its forms; None when it holds none."""
    error = body.get("error")
    if error:
        return {**body, "message": error} if isinstance(error, str) else error
    if body.get("success") is False or body.get("object") == "error":  # Cloudflare's envelope; Mistral, vLLM
        return body
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") in _BROKE_OFF:
            return choice.get("error") or {}
    return None


def report_of(body: Any, *, status: int | None = None, retry_after_s: float | None = None) -> Report:
    """Reads a failure in any of its forms: `{error: {...}}`, `{error: "..."}`, `{errors: [...]}`, `{detail: ...}`,
    `{message: ...}`, any of them in a list, or nothing legible at all.

    Without `status` (an error inside a 200) it is looked for in the body, else the failure counts as a 502.
    """
    error = _innermost(body)
    code, kind = _text(error.get("code")), _text(error.get("type") or error.get("status"))
    metadata = error["metadata"] if isinstance(error.get("metadata"), dict) else {}
    message = _text(error.get("message"))
    if isinstance(metadata.get("raw"), str):  # OpenRouter: what the provider behind it said
        message = f"{message}: {metadata['raw'][:500]}"
    if metadata.get("reasons"):  # OpenRouter's moderation, with status 403
        status, code = 400, "content_policy_violation"
    return Report(
        status=status or _status_inside(error, code, kind),
        message=message,
        type=kind,
        code=code,
        param=error["param"] if isinstance(error.get("param"), str) else None,
        retry_after_s=_hint(error, message) if retry_after_s is None else retry_after_s,
    )


def _innermost(body: Any) -> dict[str, Any]:
    """The object that says most of a failure. Each step goes one layer in, and no provider has more than a few."""
    for _ in range(8):
        inner = _one_layer_in(body)
        if inner is body:
            break
        body = inner
    return body if isinstance(body, dict) else {}


def _one_layer_in(body: Any) -> Any:
    """The same object where nothing better lies inside."""
    if isinstance(body, list):
        return body[0] if body else {}
    if isinstance(body, str):
        return {"message": body}
    if not isinstance(body, dict):
        return {}
    error, errors, message = body.get("error"), body.get("errors"), body.get("message")
    if isinstance(error, dict):
        return error
    if isinstance(error, str) and error:
        return {name: value for name, value in body.items() if name != "error"} | {"message": error}
    if isinstance(errors, list) and errors:
        return errors[0]
    if body.get("detail"):
        return {name: value for name, value in body.items() if name != "detail"} | {"message": _detail(body["detail"])}
    if isinstance(message, dict):  # (m) Mistral, around its `detail`
        return {name: value for name, value in body.items() if name != "message"} | message
    return body


def _detail(detail: Any) -> str:
    """FastAPI's and Mistral's: text, or a list of `{loc, msg}`."""
    if not isinstance(detail, list):
        return _text(detail)
    rows = [row for row in detail if isinstance(row, dict)]
    return "; ".join(f"{_place(row.get('loc'))}: {row.get('msg')}" for row in rows)


def _place(loc: Any) -> str:
    return ".".join(map(str, loc)) if isinstance(loc, list) else str(loc or "body")


def _hint(error: dict[str, Any], message: str) -> float | None:
    """`Please try again in 7.66s`, `Please wait 38 seconds before retrying`, or Hugging Face's `estimated_time`."""
    found = _HINT.search(
        _UNIT_WORDS.sub(lambda unit: "ms" if unit[1].lower()[:3] == "mil" else unit[1][0].lower(), message)
    )
    if found:
        return parse_wait(found[1].lower(), now=0.0)
    return parse_wait(str(error.get("estimated_time", "")), now=0.0)  # (m) while a model is loaded, with a 503


def classify(report: Report) -> UpstreamError:
    """The class of a failure and what the caller is told. Never the provider's words about our own key or account."""
    status = report.status
    common: dict[str, Any] = {"upstream_status": status, "retry_after_s": report.retry_after_s}
    if status in (401, 403) or (status == 400 and _WRONG_KEY.search(f"{report.code} {report.message}")):
        common["is_account"] = status != 403
        return errors.Operator("The provider did not accept the gateway's credentials.", **common)
    said = f"{report.code} {report.type} {report.message}"
    if status == 402 or (status == 429 and _EXHAUSTED.search(said)):
        is_daily = bool(_DAILY.search(said))
        common |= {"is_account": status == 402 or not is_daily, "resets_daily": is_daily}
        return errors.Exhausted("The provider's quota is used up.", **common)
    if status in (429, 498):
        return errors.Busy("The provider's rate limit is reached.", status=429, **common)
    if status in (503, 529):
        return errors.Busy("The provider is overloaded.", type="server_error", code="overloaded", **common)
    if status == 404:
        return errors.Operator("The provider does not know the model or the address that is configured.", **common)
    if status in (400, 413, 422) or (409 <= status < 500):
        return _request_fault(report, common)
    if 300 <= status < 400 or status == 405:
        return errors.Operator(f"The provider answered {status}: its address in the configuration is wrong.", **common)
    return errors.Transient(f"The provider failed with status {status}.", **common)


def _request_fault(report: Report, common: dict[str, Any]) -> UpstreamError:
    """400, 413, 422 and rarer: about the request itself, so the caller hears the provider's own words."""
    message = report.message or f"The provider refused the request with status {report.status}."
    words: dict[str, Any] = {"status": report.status, "param": report.param, **common}
    if report.status == 413 or report.code == "context_length_exceeded" or _TOO_LONG.search(message):
        return errors.TooLong(message, **words)
    if report.code.lower() in _REFUSED or report.type.lower() in _REFUSED:
        return errors.Refused(message, **words)
    if report.code in _UNSUPPORTED_CODES or _UNSUPPORTED.search(message):
        return errors.Unsupported(message, **words)
    return errors.ClientFault(message, code=report.code or None, **words)


def _status_inside(error: dict[str, Any], code: str, kind: str) -> int:
    for number in (error.get(name) for name in ("code", "status", "status_code", "raw_status_code")):
        if _ERROR_STATUS.fullmatch(str(number)):
            return int(str(number))
    return _STATUS_OF_WORD.get(code) or _STATUS_OF_WORD.get(kind) or 502


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
