"""Connections that are not there."""

import pytest
from model_delivery.exceptions import InvalidRequestError
from model_delivery.hooks.stores.azure_blob import AzureBlobStore


def test_an_azure_uri_without_its_connection_says_which_and_where() -> None:
    with pytest.raises(InvalidRequestError, match=r"'nobodys', and .* AIRFLOW_CONN_NOBODYS"):
        AzureBlobStore("nobodys").stat("wasbs://container@account/blob")
