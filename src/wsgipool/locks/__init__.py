"""Locks for what threads, processes and hosts share: `named` is what a program calls, the others are how it is done."""
