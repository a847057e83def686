"""The load generator: Locust processes walk the plan, read streams and record requests."""
