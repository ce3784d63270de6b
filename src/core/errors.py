"""Every failure the gateway knows, and OpenAI's wire form of each.

GatewayError                     status  type                    code                     another model?
├── InvalidRequest               400     invalid_request_error
├── Unauthorized                 401     authentication_error    invalid_api_key
├── NotFound                     404     invalid_request_error   not_found
│   └── ModelNotFound            404     invalid_request_error   model_not_found
├── MethodNotAllowed             405     invalid_request_error   method_not_allowed
├── BodyTooLarge                 413     invalid_request_error   request_too_large
├── RequestTooSlow               408     invalid_request_error   request_too_slow
├── RateLimited                  429     rate_limit_error        rate_limit_exceeded
├── Unavailable                  503     server_error            no_model_available
├── StreamNotRecovered           502     server_error            stream_not_recovered
├── InternalError                500     server_error            internal_error
└── UpstreamError                what a provider did to one attempt
    ├── Transient                502     server_error            upstream_error           yes
    ├── Busy                     429/503 rate_limit_error        rate_limit_exceeded      yes
    ├── Exhausted                429     rate_limit_error        insufficient_quota       yes
    ├── Silent                   504     timeout_error           upstream_timeout         yes
    ├── OutOfTime                504     timeout_error           out_of_time              no
    ├── Operator                 502     server_error            upstream_refused         yes
    ├── TooLong                  400/413 invalid_request_error   context_length_exceeded  larger ones
    ├── Unsupported              400/422 invalid_request_error   unsupported              yes
    ├── Refused                  400     invalid_request_error   content_filter           no
    └── ClientFault              4xx     as the provider said                             no

A client never sees a provider's 401 or 403: those are about our key, not about theirs.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class GatewayError(Exception):
    """`message` is for the caller: it names the thing and the remedy and never holds a key or a prompt."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,  # noqa: A002 - OpenAI's word
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.type = type or self.type
        self.code = code or self.code
        self.param = param
        self.headers = dict(headers or {})
        self.attempts: list[dict[str, Any]] = []

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, as a buffered answer and as the event that ends a broken stream."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, "attempts": self.attempts} if self.attempts else error}


class InvalidRequest(GatewayError):
    status, type = 400, "invalid_request_error"


class Unauthorized(GatewayError):
    status, type, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": 'Bearer realm="sluice"'})


class NotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class BodyTooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class RequestTooSlow(GatewayError):
    status, type, code = 408, "invalid_request_error", "request_too_slow"


class RateLimited(GatewayError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class Unavailable(GatewayError):
    status, type, code = 503, "server_error", "no_model_available"


class StreamNotRecovered(GatewayError):
    """A stream broke off, and the model asked anew said something else than what was sent."""

    status = 502
    code = "stream_not_recovered"


class InternalError(GatewayError):
    status, type, code = 500, "server_error", "internal_error"


class UpstreamError(GatewayError):
    """One attempt failed.

    `upstream_status` is what the provider answered, None if it did not; `retry_after_s` is when it said it would have
    room again, in seconds from now; `resets_daily` when it said only that the day's quota is used up. `reached` is
    false when the request cannot have arrived there. `is_account`: it concerns all models of the account, not this one.
    `ends`: no other model would fare better.
    """

    kind: ClassVar[str]
    ends: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
        resets_daily: bool = False,
        reached: bool = True,
        is_account: bool = False,
        **wire: Any,
    ) -> None:
        super().__init__(message, **wire)
        self.upstream_status = upstream_status
        self.retry_after_s = retry_after_s
        self.resets_daily = resets_daily
        self.reached = reached
        self.is_account = is_account


class Transient(UpstreamError):
    kind, status, type, code = "transient", 502, "server_error", "upstream_error"


class Busy(UpstreamError):
    kind, status, type, code = "busy", 503, "rate_limit_error", "rate_limit_exceeded"


class Exhausted(UpstreamError):
    kind, status, type, code = "exhausted", 429, "rate_limit_error", "insufficient_quota"


class Silent(UpstreamError):
    kind, status, type, code = "silent", 504, "timeout_error", "upstream_timeout"


class OutOfTime(UpstreamError):
    """The door allows no more time; the provider is not to blame."""

    kind, status, type, code = "out_of_time", 504, "timeout_error", "out_of_time"
    ends = True


class Operator(UpstreamError):
    kind, status, type, code = "operator", 502, "server_error", "upstream_refused"


class TooLong(UpstreamError):
    kind, status, type, code = "too_long", 400, "invalid_request_error", "context_length_exceeded"


class Unsupported(UpstreamError):
    kind, status, type, code = "unsupported", 400, "invalid_request_error", "unsupported"


class Refused(UpstreamError):
    kind, status, type, code = "refused", 400, "invalid_request_error", "content_filter"
    ends = True


class ClientFault(UpstreamError):
    kind, status, type = "client", 400, "invalid_request_error"
    ends = True
