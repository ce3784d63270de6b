"""The client that the DynamoDB store speaks through, and what DynamoDB refuses as errors of ours.

boto3 is slow to import: only what is called here imports it, in a thread.
"""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from ..config.schema import State
from ..plan import Image
from .expressions import PRIMARY_KEY, read_item
from .port import StoreBusy, StoreError, StoreMisconfigured

THREADS = 32
CONNECT_S, READ_S = 0.3, 0.5

_BUSY = frozenset({"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"})
_MISCONFIGURED = frozenset(
    {
        "ResourceNotFoundException",
        "AccessDeniedException",
        "ValidationException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "ExpiredTokenException",
        "MissingAuthenticationTokenException",
    }
)
_REMEDIES = {
    "ResourceNotFoundException": "no such table in this region: see state.table and state.region, or make the table",
    "AccessDeniedException": "allow dynamodb:UpdateItem, dynamodb:GetItem and dynamodb:BatchGetItem on it",
    "ExpiredTokenException": "the AWS credentials have expired: renew them",
}
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"

_T = TypeVar("_T")


class ConditionFailed(Exception):
    """The item is not as the plan wants it; `item` is as it is, None where the endpoint does not say."""

    def __init__(self, item: Image | None) -> None:
        super().__init__()
        self.item = item


def make_client(state: State) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError:
        raise StoreMisconfigured("the store dynamodb needs boto3: pip install boto3") from None
    from botocore.exceptions import BotoCoreError, NoRegionError

    try:
        return boto3.client(
            "dynamodb",
            region_name=state.region,
            endpoint_url=state.endpoint_url,
            config=Config(
                connect_timeout=max(CONNECT_S, state.timeout_ms / 1000),
                read_timeout=max(READ_S, state.timeout_ms / 1000),
                retries={"total_max_attempts": 1},
                max_pool_connections=THREADS,
            ),
        )
    except NoRegionError as error:
        raise StoreMisconfigured("the store dynamodb has no region: set state.region, or AWS_DEFAULT_REGION") from error
    except BotoCoreError as error:  # a profile that does not exist
        raise StoreMisconfigured(f"the store dynamodb: {error}") from error


def make_table(state: State) -> str:
    """Make the table that `state` names: one key, on demand, items that expire. Blocks. Raises StoreError."""
    client, table = make_client(state), state.table or ""
    lifetime = {"AttributeName": "x", "Enabled": True}

    def make() -> str:
        client.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": PRIMARY_KEY, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": PRIMARY_KEY, "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        with contextlib.suppress(client.exceptions.ClientError):  # dynalite keeps items for ever
            client.update_time_to_live(TableName=table, TimeToLiveSpecification=lifetime)
        return "made"

    try:
        return translated(make, table)
    except StoreError as error:
        if "ResourceInUseException" in str(error):
            return "is there already"
        raise


def translated(call: Callable[[], _T], table: str) -> _T:
    """botocore's exceptions as ours; runs in the thread, where botocore is imported already."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        return call()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "ConditionalCheckFailedException":
            item = error.response.get("Item")
            raise ConditionFailed(read_item(item) if item else None) from None
        if code in _BUSY:
            raise StoreBusy(f"the table {table} is throttled") from error
        if code in _MISCONFIGURED:
            why = f"{code}: {_REMEDIES[code]}" if code in _REMEDIES else code
            raise StoreMisconfigured(f"the table {table} cannot be used: {why}") from error
        raise StoreError(f"the table {table} failed: {code}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreMisconfigured(f"the store dynamodb has no AWS credentials: {_NO_CREDENTIALS}") from error
    except BotoCoreError as error:
        raise StoreError(f"the table {table} could not be reached: {type(error).__name__}") from error
