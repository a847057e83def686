"""What this machine is made of: NVIDIA boards through NVML, and the host's processor, memory and
system. Reads only; changes nothing.
"""
