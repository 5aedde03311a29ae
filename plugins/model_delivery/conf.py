"""What a run is given as `conf`: patterns of its Params, and a check of the whole."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from airflow.sdk import Context

from model_delivery.connections import undefined_connection
from model_delivery.exceptions import InvalidRequestError

CONNECTION_SUFFIX = "conn_id"
# Python's `$` would let a newline follow; this is the same to the browser.
END = r"$(?!\n)"
URI = r"^(s3|abfss?|wasbs?|file)://[^{}\s]([^{}\r\n\t]*[^{}\s])?"
SHAPES_TEXT = r"^\s*[\[{]"  # of a Param that takes shapes as JSON text too
ARCHIVE_URI = URI + r"\.tar\.gz" + END


def check_conf(context: Context) -> None:
    """Refuse a run whose `conf` cannot be meant; give it to the first task.

    Airflow takes a key that is no Param without a word, and a misspelt one would deliver the
    default instead. A connection that is missing would be noticed only when it is used, which may
    be after the device was changed.

    :raises InvalidRequestError: naming the key and the Param that was likely meant; the Param
        (one whose name ends in `conn_id`) and the connection that is not defined; shapes whose
        order decides and is not kept.
    """
    _refuse_unknown(context)
    refuse_unordered(context["params"])
    for name, value in context["params"].items():
        if name.endswith(CONNECTION_SUFFIX):
            _require_connection(name, str(value))


def shapes_json(value: Any) -> str:
    """Return a Param of input shapes as DataInputConfig: a filter for templates.

    Jinja's own `tojson` sorts the names, and with PyTorch their order decides.

    :param value: text, which is passed on as it is; what it stands for; or nothing
    """
    if not value:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def refuse_unordered(params: Mapping[str, Any]) -> None:
    """Refuse an object of several inputs where their order decides: Postgres sorts its names.

    :raises InvalidRequestError: with the same as text
    """
    config = params.get("data_input_config")
    if params.get("framework") == "PYTORCH" and isinstance(config, Mapping) and len(config) > 1:
        raise InvalidRequestError(
            "data_input_config is an object of several inputs, whose order decides for PYTORCH and "
            "is not kept by every metadata database; give it as text, "
            f"{json.dumps(json.dumps(config))}, in the model's order, or as a list of shapes"
        )


def only_if_approval_is_asked(context: Context) -> None:
    """Skip the approval where the run's Param `approval` is off; give it to that task."""
    from airflow.sdk.exceptions import AirflowSkipException

    if not context["params"]["approval"]:
        raise AirflowSkipException("nobody is asked: the run's Param approval is off")


def _require_connection(name: str, conn_id: str) -> None:
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        Connection.get(conn_id)
    except AirflowNotFoundException as error:
        raise undefined_connection(conn_id, name) from error


def _refuse_unknown(context: Context) -> None:
    conf: dict[str, Any] = context["dag_run"].conf or {}
    known = list(context["dag"].params)
    for key in conf:
        if key not in known:
            likely = get_close_matches(key, known, n=1) or [", ".join(known)]
            raise InvalidRequestError(
                f"conf has {key!r}, which is no Param of {context['dag'].dag_id}: "
                f"did you mean {likely[0]}?"
            )
