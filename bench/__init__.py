"""What the gateway costs, beside others on the same machine in the same minutes; and counts, which repeat exactly."""
