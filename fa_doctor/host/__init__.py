"""The only place that touches the outside: files, folders, the environment, commands with a deadline."""
