"""Makes the plan of a run, its arrivals, sessions, turns and prompts, as a pure function of the
profile, model facts and seed.
"""
