"""A measured run and a site -> what the site would deliver, draw and cost, with ranges; refuses
what it has no right to say.
"""
