"""Operators: one module a service, as in `hooks`."""
