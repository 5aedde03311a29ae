"""Sensors: one module a service, as in `hooks`."""
