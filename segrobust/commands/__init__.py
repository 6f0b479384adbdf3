"""The command line's parts; nothing here imports torch before the arguments have been checked."""
