"""An ASGI application on Lambda, streaming: Python's own runtime there can only answer as a whole.

`loop.py` asks the Runtime API for invocations (`api.py` over `connection.py`), `adapter.py` makes an ASGI request of
each (`events.py`) and hands the answer, as it comes, to a `Writer`. Nothing here knows the gateway.
"""
