"""The device agent: desired state in, proven model served."""
