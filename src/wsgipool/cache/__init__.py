"""Objects that all threads of a process share; `shared_cache` has the public class `SharedCache`."""
