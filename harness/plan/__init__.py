"""The plan of a run: arrivals, sessions, turns and prompts, a pure function of profile, model facts
and seed.
"""
