"""Makes the conversations of each workload; the lengths of a session are a pure function of
(seed, workload, scale, stage, number).

`shared_prefix` is what all sessions of a class share, `conversation` the workloads that only
grow, `claude_code` the one that also compacts and rewrites, `subagents` the conversations that
it starts, `replay` a recorded trace, `common` what several use, `classes` what a profile's workload
comes to: one class, or several with shares.
"""
