"""Calculations from processes, threads and connection limits to pool sizes; no I/O."""
