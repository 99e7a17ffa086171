"""The command line. Importing it costs typer and nothing else; a command imports what it needs when it runs."""
