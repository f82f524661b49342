"""Measures Oneport beside other WebSocket servers. `benches/websocket/run` starts it."""
