"""Locks for objects that threads, processes and hosts share; `named` has the public class `Locks`."""
