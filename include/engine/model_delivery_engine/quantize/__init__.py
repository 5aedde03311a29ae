"""Lower precision: half floats, 8-bit integers, and 8-bit integers held to an accuracy."""
