"""The processes that do the jobs' work, apart from the API and at a lower priority."""
