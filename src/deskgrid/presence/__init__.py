"""Is the owner here? One contract, a fake, and a driver per system."""
