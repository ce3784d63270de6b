"""From what a provider says about a failure to one of our errors: status first, then codes, message text last."""

import re
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..errors import UpstreamError

_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum context|too many (input )?tokens|prompt is too long|input is too long"
    r"|exceeds? the (maximum|max|model'?s?) .{0,30}(tokens|length)|reduce the length",
    re.IGNORECASE,
)
_REFUSED = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
_UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value", "unsupported_feature", "unknown_parameter"}
_UNSUPPORTED = re.compile(
    r"(does not|doesn't|do not|don't) support|not supported|unsupported"
    r"|(unknown|unrecognized|unexpected) (parameter|field|argument)|extra (inputs|fields) (are )?not permitted",
    re.IGNORECASE,
)
_EXHAUSTED = re.compile(r"insufficient_quota|exceeded your current quota|per ?day|daily|billing|credit", re.IGNORECASE)
_WRONG_KEY = re.compile(r"api[ _]key[ _](not valid|invalid|expired)|invalid api[ _]key", re.IGNORECASE)

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


def report_of(error: Any, *, status: int | None = None, retry_after_s: float | None = None) -> Report:
    """Reads an `error` value in any of its forms: an object, a string, or nothing at all.

    Without `status` (an error inside a 200) it is looked for in the object, else the failure counts as a 502.
    """
    if not isinstance(error, dict):
        error = {"message": error} if isinstance(error, str) else {}
    code, kind = _text(error.get("code")), _text(error.get("type"))
    return Report(
        status=status or _status_inside(error, code, kind),
        message=_text(error.get("message")) or _text(error.get("detail")),
        type=kind,
        code=code,
        param=error["param"] if isinstance(error.get("param"), str) else None,
        retry_after_s=retry_after_s,
    )


def classify(report: Report) -> UpstreamError:
    """The class of a failure and what the caller is told. Never the provider's words about our own key or account."""
    status = report.status
    common: dict[str, Any] = {"upstream_status": status, "retry_after_s": report.retry_after_s}
    if status in (401, 403) or (status == 400 and _WRONG_KEY.search(f"{report.code} {report.message}")):
        return errors.Operator("The provider did not accept the gateway's credentials.", **common)
    if status == 402 or (status == 429 and _EXHAUSTED.search(f"{report.code} {report.type} {report.message}")):
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
    for number in (error.get("code"), error.get("status"), error.get("status_code")):
        if str(number).isdigit() and 400 <= int(str(number)) < 600:
            return int(str(number))
    return _STATUS_OF_WORD.get(code) or _STATUS_OF_WORD.get(kind) or 502


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
