"""The configuration: YAML in, a checked `Config` out, or every problem with its line."""

from .load import ConfigError, Loaded, load
from .schema import Config, KeyEntry, ModelEntry, ProviderEntry
from .source import LookUp

__all__ = ["Config", "ConfigError", "KeyEntry", "Loaded", "LookUp", "ModelEntry", "ProviderEntry", "load"]
