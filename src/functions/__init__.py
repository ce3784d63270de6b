"""The Lambda door. Everything that knows a function, its events and its runtime is here."""
