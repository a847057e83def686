"""Conversations of each workload. The lengths of a session are a pure function of (seed, workload,
scale, stage, number).

`heads` is what all sessions of a class share, `conversation` the workloads that only grow,
`claude_code` the one that also compacts and rewrites, `classes` what a profile's workload comes to:
one class, or several with shares.
"""

from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK

__all__ = ["MESSAGE_OVERHEAD_TOK"]
