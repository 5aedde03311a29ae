"""The device agent: desired state in, proven model served."""

__version__ = "0.1.0"
