"""What is watched beside the traffic: the servers' metrics, power, the host's processor and memory;
all in a process of its own.
"""
