"""Objects that all threads of a process share: `shared` is what a program calls, the others are how it is done."""
