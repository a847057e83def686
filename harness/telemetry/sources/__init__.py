"""Sources of power: what each can do here, and its readings. One module a source; `make` builds
those that a profile names.
"""
