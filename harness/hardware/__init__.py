"""Describes this machine: GPUs through NVML, processor, memory and system. Read-only."""
