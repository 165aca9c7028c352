"""Tables: what is known of GPUs, stacks, variables and failures, as TOML with sources, and how they are read."""
