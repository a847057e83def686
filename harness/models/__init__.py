"""Finds models and builds the built-in ones. Nothing here imports torch; a child process builds."""

from harness.models.facts import BuiltinModel, add_smollm2, available, resolve

__all__ = ["BuiltinModel", "add_smollm2", "available", "resolve"]
