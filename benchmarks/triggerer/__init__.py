"""A real TriggerRunner over a real localcloud, for the benchmarks of waiting."""
