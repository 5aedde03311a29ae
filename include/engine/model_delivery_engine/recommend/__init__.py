"""Recommenders: interactions, matrix factorisation, how good the recommendations are, a report."""
