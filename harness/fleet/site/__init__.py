"""GPUs, sites, priors and published throughput: checked data with sources."""
