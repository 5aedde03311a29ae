"""Hooks: one module a service."""
