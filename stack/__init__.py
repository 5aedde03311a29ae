"""Starts the whole product on one machine: what `make demo`, `make up` and the tests stand on."""
