"""Rollouts: a change to what many devices run, in stages, by deployments to one device each."""
