"""The embedded engine: a small HTTP server over transformers' continuous batching, in its own
process.

`python -m harness.server.engine --model DIR --port N`. Nothing outside this folder imports it:
torch stays in its process.

    __main__    arguments, logging, signals
    api         routes: every wire API, health, metrics
    reply       one response in progress: deliveries, counts, how it ended
    prompts     request bodies -> messages -> token ids
    output      token ids -> text, stop strings, tool calls
    batching    the generation thread: model, KV cache, requests in and tokens out
    attention   attention over the paged cache without a mask over all requests
    metrics     the Prometheus exposition, under vLLM's names
"""
