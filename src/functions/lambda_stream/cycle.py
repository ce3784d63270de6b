"""One request through the application, the answer handed on as it comes."""

from mangum.exceptions import UnexpectedMessage
from mangum.protocols import HTTPCycle
from mangum.protocols.http import HTTPCycleState
from mangum.types import ASGI, Message, Scope

from .writer import Writer

_WITHOUT_BODY = frozenset({204, 304})


class StreamingCycle(HTTPCycle):
    def __init__(self, scope: Scope, body: bytes, writer: Writer) -> None:
        super().__init__(scope, body)
        self._writer = writer
        self._has_body = scope["method"] != "HEAD"
        writer.gone = self._disconnect

    @property
    def is_whole(self) -> bool:
        return self.state is HTTPCycleState.COMPLETE

    async def run(self, app: ASGI) -> None:
        """To the application's own end: what it does after its answer is done before the next invocation, too."""
        await app(self.scope, self.receive, self.send)

    async def send(self, message: Message) -> None:
        if self.state is HTTPCycleState.REQUEST and message["type"] == "http.response.start":
            self.state = HTTPCycleState.RESPONSE
            self._has_body = self._has_body and message["status"] not in _WITHOUT_BODY
            await self._writer.start(message["status"], message.get("headers", ()))
        elif self.state is HTTPCycleState.RESPONSE and message["type"] == "http.response.body":
            if self._has_body:
                await self._writer.write(message.get("body", b""))
            if not message.get("more_body", False):
                self.state = HTTPCycleState.COMPLETE
                await self._writer.end()
                self._disconnect()
        else:
            raise UnexpectedMessage(f"Unexpected {message['type']}")

    def _disconnect(self) -> None:
        self.app_queue.put_nowait({"type": "http.disconnect"})
