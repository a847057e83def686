"""The load generator: Locust processes that walk the plan, read streams and record requests. Locust
and gevent stay in those processes.
"""
