"""Measures Oneport's channel layers and Django Channels'. `benches/layer/run` starts it."""
