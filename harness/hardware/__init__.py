"""Describes this machine: GPUs (NVML), processor, memory and system. Read-only."""
