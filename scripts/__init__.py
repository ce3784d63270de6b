"""What is done by hand, beside the suite."""
