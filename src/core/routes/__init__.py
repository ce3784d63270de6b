"""The HTTP surface, a few lines a route: from a Starlette request to the gateway and back."""
