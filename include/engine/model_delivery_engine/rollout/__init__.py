"""Staged rollouts: who is next, and whether what was seen lets the next ones have it."""
