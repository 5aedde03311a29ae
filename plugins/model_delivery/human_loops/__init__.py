"""Batches of human loops: their names, starting them, waiting for them, reading their answers."""
