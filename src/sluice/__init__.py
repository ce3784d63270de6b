"""The local door: uvicorn and the command line. Everything that knows a machine, a terminal or a process is here."""
