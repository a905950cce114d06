"""What values from outside must look like: names, numbers, times, texts; checked where they come in."""
