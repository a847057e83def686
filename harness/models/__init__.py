"""Finds models and makes the built-in ones, as facts that planning needs.

Nothing here imports torch; built-in models are made by a child process.
"""

from harness.models.facts import BuiltinModel, add_smollm2, available, resolve

__all__ = ["BuiltinModel", "add_smollm2", "available", "resolve"]
