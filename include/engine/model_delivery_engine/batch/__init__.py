"""Batch inference over JSON lines: plan shards, run one, merge them, evaluate the answers."""
