"""Commands of the command line, one file each; cli.py imports a command when it is called."""
