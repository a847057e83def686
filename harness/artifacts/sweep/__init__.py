"""The files of a folder of a sweep or search."""
