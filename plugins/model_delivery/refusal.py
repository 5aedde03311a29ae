"""What a task that was refused leaves for the tasks after it: its reason, where XCom has it."""

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk import Context

from model_delivery.exceptions import DeliveryRefusedError

REFUSAL_KEY = "refusal"
LONGEST = 1000


@contextmanager
def telling_refusal(context: Context) -> Iterator[None]:
    """Leave the message of a DeliveryRefusedError under the key `refusal`, and pass it on."""
    try:
        yield
    except DeliveryRefusedError as error:
        context["ti"].xcom_push(key=REFUSAL_KEY, value=str(error)[:LONGEST])
        raise
