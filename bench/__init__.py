"""What the gateway costs, measured so that anyone can repeat it."""
