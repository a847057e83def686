"""What runs inside a Locust process.

Importing Locust monkey-patches the process, so nothing outside may import `locustfile`,
`dispatcher`, `wire` or `recorder`; `framing`, `answer` and `record` are plain Python.
"""
