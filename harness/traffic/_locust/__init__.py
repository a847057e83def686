"""The code that runs inside a Locust process.

Importing Locust monkey-patches the process, so nothing outside may import `locustfile`,
`dispatcher`, `http_client` or `recorder`; `http1`, `answer` and `record` are plain Python.
"""
