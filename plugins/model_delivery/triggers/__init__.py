"""Triggers that start runs."""
