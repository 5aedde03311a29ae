"""What a run was given as `conf`."""

from difflib import get_close_matches
from typing import Any

from airflow.sdk import Context

from model_delivery.exceptions import InvalidRequestError


def refuse_unknown_conf(context: Context) -> None:
    """Refuse a run whose `conf` has a key that is no Param; give it to the first task.

    Airflow takes such a key without a word, and a misspelt one would deliver the default instead.

    :raises InvalidRequestError: naming the key and the Param that was likely meant.
    """
    conf: dict[str, Any] = context["dag_run"].conf or {}
    known = list(context["dag"].params)
    for key in conf:
        if key not in known:
            likely = get_close_matches(key, known, n=1) or [", ".join(known)]
            raise InvalidRequestError(
                f"conf has {key!r}, which is no Param of {context['dag'].dag_id}: "
                f"did you mean {likely[0]}?"
            )
