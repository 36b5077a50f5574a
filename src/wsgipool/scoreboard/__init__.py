"""The scoreboard: what the pools, locks and caches of all processes of a host do, for its operator."""
