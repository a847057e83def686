"""The wire APIs: one module each, with all that this program knows about it.

`table.wire` gives the module's object for a name; `base` says what an API consists of.
"""
