"""Airflow connections that a task needs."""

from model_delivery.exceptions import InvalidRequestError


def undefined_connection(conn_id: str, needed_for: str) -> InvalidRequestError:
    """Return the error of a connection that Airflow does not know.

    :param needed_for: what names it: a parameter, or the URI that is read through it.
    """
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    return InvalidRequestError(
        f"{needed_for} needs the connection {conn_id!r}, and Airflow has no such connection: "
        f"add it under Admin, Connections, or as the environment variable {variable}"
    )
