"""Batch inference: plan shards, run one in parts, publish them, evaluate the answers."""
