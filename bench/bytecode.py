"""`python -m bench.bytecode all|standard`: compiles what a function imports, or of it only the standard library, into
the cache of the Python that runs this. With unchecked hashes, as `make build` does: time stamps do not survive a zip.
"""

import importlib
import importlib.util
import py_compile
import sys
import sysconfig

IMPORTED = (
    "functions.handler",
    "functions.lambda_stream.loop",
    "core.http_client.httpx",
    "core.routes.api",
    "aws_lambda_powertools.metrics",
    "boto3",
)

if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    standard, added = sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        is_standard = file.startswith(standard) and not file.startswith(added)
        if file.endswith(".py") and (is_standard or sys.argv[1] == "all"):
            cached = importlib.util.cache_from_source(file)
            py_compile.compile(file, cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
