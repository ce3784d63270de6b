"""The gateway: plain Python that knows no Lambda, reads no environment and opens nothing at import."""

__version__ = "0.1.0"
