"""Seeded fuzzing of what a compilation job is given."""
