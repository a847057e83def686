"""Wire APIs, one module each. `table.wire` returns the API of a name; `base` is their interface."""
