"""Measures Oneport's HTTP beside other servers. `benches/http/run` starts it."""
