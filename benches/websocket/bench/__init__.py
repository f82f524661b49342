"""Measures Oneport and other WebSocket servers. `benches/websocket/run` starts it."""
