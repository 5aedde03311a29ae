"""Whom the device believes, and how the cloud knows the device."""
