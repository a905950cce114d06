"""What the coordinator decides: demand, a plan of which desktop starts which image, and why."""
