"""The sessions of each workload: a pure function of (seed, workload, scale, stage, number).

`classes` turns a profile's workload into one or more classes of sessions, `shared_prefix` has their
common head. `conversation` has the workloads that only grow, `claude_code` and its `subagents` the
one that also compacts and rewrites, `replay` recorded traces.
"""
