"""State in a DynamoDB table: one set of limits and breakers for a whole fleet.

Admission is one conditional `UpdateItem` a scope. The plan for it is made by the last image seen, or none; where that
was wrong the refusal brings the true item along, and the plan is made anew. A call is never admitted by an old image,
but it is refused by one that says "full until" or "open until": near a limit that is what keeps writes few. Such a one
is looked at once a minute.

boto3 is imported and its client made on first use, in a thread; nothing of it is loaded with another store.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from ..admission import Outcome, Reason, Refusal, Reservation, Scope, confirmed, plan_finish, plan_reserve
from ..config.schema import State
from ..limits import Cost
from ..plan import Image, Plan, first_to_hold
from .dynamodb_client import THREADS, ConditionFailed, make_client, translated
from .expressions import PRIMARY_KEY, compile_plan, read_item
from .port import StoreBusy, StoreError, StoreMisconfigured

CLIENT_S = 10.0
FIRST_OPERATION_S = 2.0  # a cold start under a slow CPU is no failure of the store
LOOK_AGAIN_MS = 60_000  # what refuses by its last image may have been reset by somebody
MAX_TRIES = 5  # a plan that others overtook; each time by an item that is newer
KEYS_A_READ = 100
CLOCK_EVERY = 1000  # answers
CLOCK_S = 2.0  # windows are kept by each caller's own clock
_LOG = logging.getLogger("sluice")

_T = TypeVar("_T")


class DynamoDbStore:
    def __init__(self, state: State) -> None:
        assert state.table is not None
        self._state = state
        self._table = state.table
        self._client: Any = None
        self._making = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sluice-dynamodb")
        self._under_way: set[asyncio.Task[Any]] = set()
        self._answers = 0
        self.images: dict[str, Image] = {}  # the last seen of each scope
        self._refused_since: dict[str, int] = {}  # ms, by its last image

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        found: dict[str, Image] = {}
        for start in range(0, len(keys), KEYS_A_READ):
            found |= await self._read(list(dict.fromkeys(keys[start : start + KEYS_A_READ])))
        self.images |= found
        return found

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        image, is_fresh = self.images.get(scope.key, {}), False
        for _ in range(MAX_TRIES):
            step = plan_reserve(scope, cost, image, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
            if isinstance(step, Refusal):
                if is_fresh or not (step.is_throttled or self._is_to_look_again(scope.key, now_ms)):
                    return step
                image, is_fresh = await self._fresh(scope.key), True
                self.images[scope.key] = image
                continue
            plan, reservation = step
            self._refused_since.pop(scope.key, None)
            try:
                image = await self._take(scope.key, plan, reservation, now_ms)
            except ConditionFailed as failed:
                image = failed.item if failed.item is not None else await self._fresh(scope.key)
                is_admitted = reservation is not None and reservation.is_held_in(image)  # an answer was lost
            else:
                is_admitted = reservation is not None
            is_fresh = True
            self.images[scope.key] = image
            if reservation is not None and is_admitted:
                return confirmed(reservation, image)
        return Refusal(scope, (Reason("contended", now_ms + 100),))

    def _is_to_look_again(self, key: str, now_ms: int) -> bool:
        if now_ms - self._refused_since.setdefault(key, now_ms) < LOOK_AGAIN_MS:
            return False
        self._refused_since[key] = now_ms
        return True

    async def _take(self, key: str, plan: Plan, reservation: Reservation | None, now_ms: int) -> Image:
        """Carry an admission out. Whoever is cancelled meanwhile may have been admitted: that is given back."""
        written = self._to_the_end(self._update(key, plan))
        try:
            return await asyncio.shield(written)
        except asyncio.CancelledError:
            if reservation is not None:
                self._to_the_end(self._give_back(written, reservation, now_ms))
            raise

    def _to_the_end(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        """Whoever was cancelled does not hear of a failure, and nobody else is to be alarmed by it."""
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()

    async def _give_back(self, written: asyncio.Future[Image], reservation: Reservation, now_ms: int) -> None:
        with contextlib.suppress(ConditionFailed, StoreError):  # whatever is held then, `owing.py` sees to
            await written
            await self.finish(reservation, Outcome(is_refund=True), now_ms=now_ms)

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        if plans := plan_finish(reservation, outcome, now_ms=now_ms):
            await self.write(reservation.scope.key, *plans)

    async def write(self, key: str, *plans: Plan) -> None:
        await asyncio.shield(self._to_the_end(self._write(key, *plans)))

    async def _write(self, key: str, *plans: Plan) -> None:
        """The last image says which plan to try; where it was too old, the true item says which."""
        plan = first_to_hold(plans, self.images.get(key, {})) or next(iter(plans), None)
        for _ in range(MAX_TRIES):
            if plan is None:
                return
            try:
                self.images[key] = await self._update(key, plan)
            except ConditionFailed as failed:
                image = failed.item if failed.item is not None else await self._fresh(key)
                self.images[key] = image
                plan = first_to_hold(plans, image)
            else:
                return

    async def aclose(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _fresh(self, key: str) -> Image:
        return (await self._read([key])).get(key, {})

    async def _read(self, keys: list[str]) -> dict[str, Image]:
        if len(keys) == 1:
            key = {PRIMARY_KEY: {"S": keys[0]}}
            answer = await self._call("get_item", TableName=self._table, Key=key, ConsistentRead=True)
            return {keys[0]: read_item(answer["Item"])} if "Item" in answer else {}
        wanted: Mapping[str, Any] = {self._table: {"Keys": [{PRIMARY_KEY: {"S": key}} for key in keys]}}
        found: dict[str, Image] = {}
        for _ in range(MAX_TRIES):
            answer = await self._call("batch_get_item", RequestItems=wanted)
            for item in answer["Responses"].get(self._table, []):
                found[item[PRIMARY_KEY]["S"]] = read_item(item)
            wanted = answer.get("UnprocessedKeys") or {}
            if not wanted:
                return found
        raise StoreBusy(f"the table {self._table} is throttled")

    async def _update(self, key: str, plan: Plan) -> Image:
        """The item afterwards. A lost answer over-counts, which is safe; a refund that is repeated would not be."""
        arguments = compile_plan(key, plan)
        arguments |= {"ReturnValues": "ALL_NEW", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        may_repeat = not any(amount < 0 for amount in plan.add.values())
        answer = await self._call("update_item", may_repeat=may_repeat, TableName=self._table, **arguments)
        return read_item(answer["Attributes"])

    async def _call(self, operation: str, *, may_repeat: bool = True, **arguments: Any) -> Any:
        """After a freeze connections are dead: what may be repeated is, once."""
        try:
            return await self._call_once(operation, arguments)
        except StoreError as error:
            if not may_repeat or isinstance(error, StoreBusy | StoreMisconfigured):
                raise
            try:
                return await self._call_once(operation, arguments)
            except (StoreBusy, StoreMisconfigured):
                raise error from None  # what became of the first time is still not known

    async def _call_once(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        patience_s = self._state.timeout_ms / 1000
        if self._client is None:
            patience_s = max(FIRST_OPERATION_S, patience_s)
            await self._in_thread(self._make_client_once, CLIENT_S)
        method = getattr(self._client, operation)
        answer = await self._in_thread(lambda: translated(lambda: method(**arguments), self._table), patience_s)
        if self._answers % CLOCK_EVERY == 0:
            _compare_clocks(answer)
        self._answers += 1
        return answer

    def _make_client_once(self) -> None:
        with self._making:
            self._client = self._client or make_client(self._state)

    async def _in_thread(self, work: Callable[[], _T], patience_s: float) -> _T:
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise StoreError(f"the table {self._table} did not answer within {patience_s:g} s") from None


def _compare_clocks(answer: Any) -> None:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date and abs(skew_s := time.time() - parsedate_to_datetime(date).timestamp()) > CLOCK_S:
        _LOG.warning(
            "This machine's clock is %.0f s %s DynamoDB's: limits are counted in the wrong window around a border",
            abs(skew_s),
            "ahead of" if skew_s > 0 else "behind",
        )
