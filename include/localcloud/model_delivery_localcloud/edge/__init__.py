"""The server side of the device wire, version 1: what edge agents speak to."""
