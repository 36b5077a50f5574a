"""The place where Django looks for the folder of commands."""
