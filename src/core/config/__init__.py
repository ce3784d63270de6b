"""The configuration: YAML in, a checked `Config` out, or every problem with its line."""

from .load import ConfigError, Loaded, load
from .schema import Config, KeyEntry, ModelEntry, ProviderEntry

__all__ = ["Config", "ConfigError", "KeyEntry", "Loaded", "ModelEntry", "ProviderEntry", "load"]
