"""The parts of the `compile` benchmark: its models, its timing, its memory."""
