"""One lifecycle for every external job: submit once, wait, stop, enumerate every status.

A service fills in a `JobService` (`service.py`); operator, sensor and trigger are written once.
"""
