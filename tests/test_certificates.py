"""What aiohttp's import reads of this machine's certificates. In processes of their own: it is imported once."""

import subprocess
import sys

import pytest

COUNTED = """
import ssl, sys
seen = []
read = ssl.SSLContext.set_default_verify_paths
ssl.SSLContext.set_default_verify_paths = lambda context: (seen.append(context.verify_mode.name), read(context))[1]
from core.http_client import make_http_client
if sys.argv[1] == "bare":
    import aiohttp
make_http_client("aiohttp", idle_s=1.0)
from aiohttp.connector import _SSL_CONTEXT_VERIFIED as verified
usual = ssl.create_default_context()
assert (verified.verify_mode, verified.check_hostname) == (usual.verify_mode, usual.check_hostname)
assert verified.cert_store_stats() == usual.cert_store_stats()
print(*seen)
"""


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        pytest.param("ours", "CERT_REQUIRED", id="only for the context that checks them"),
        pytest.param("bare", "CERT_REQUIRED CERT_NONE", id="aiohttp alone reads them twice, or our file can go"),
    ],
)
def test_certificates_are_read(how: str, seen: str) -> None:
    ran = subprocess.run([sys.executable, "-c", COUNTED, how], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [*seen.split(), "CERT_REQUIRED"], "the last is what they are compared with"


def test_contexts_of_others_read_them_as_ever() -> None:
    code = """
import ssl
before = ssl.SSLContext.set_default_verify_paths
from core.http_client import make_http_client
make_http_client("aiohttp", idle_s=1.0)
assert ssl.SSLContext.set_default_verify_paths is before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
