"""Profile + model facts + seed -> RunPlan: arrivals, sessions, turns and prompts. Pure: the same
inputs give the same bytes.
"""
