"""Trying a model in a process of its own, before it may serve."""
