"""Measures Oneport's channel layers beside Django Channels'. `benches/layer/run` starts it."""
