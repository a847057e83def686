"""The run directory: layout, manifest, writers and readers. The wall between measuring and
reading.
"""
