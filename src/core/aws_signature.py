"""Signature Version 4 of a request to AWS. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
from dataclasses import field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from .frozen import frozen
from .http_client.port import HttpRequest

_ALGORITHM = "AWS4-HMAC-SHA256"


@frozen
class Credentials:
    key_id: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def sign(request: HttpRequest, credentials: Credentials, *, region: str, service: str, now: float) -> dict[str, str]:
    """All headers of the request, signed. `now` is Unix time in seconds; the address has no query."""
    address, stamp = urlsplit(request.url), datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    signed = {"host": address.netloc, "x-amz-date": stamp, "content-type": request.headers["content-type"]}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            request.method,
            quote(address.path, safe="/~"),  # encoded already, and for all services but S3 once more
            "",
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    said = f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**request.headers, **signed, "authorization": said}
