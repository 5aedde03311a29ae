"""The embedded cloud: AWS wire formats over durable jobs and real work."""
