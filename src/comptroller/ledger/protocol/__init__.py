"""The Cycles protocol on the wire: strict JSON bodies and query strings."""
