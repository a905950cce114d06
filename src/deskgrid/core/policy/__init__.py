"""May virtual machines run here? Rows that refuse, what they ask, and one policy out of layers."""
