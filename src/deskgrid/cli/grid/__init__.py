"""Commands for the grid: coordinator, pool, operator, the demo."""
