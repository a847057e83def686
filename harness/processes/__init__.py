"""Child processes: started, spoken to, ended, recorded. Only this room starts any.

Knows `core` only.
"""
