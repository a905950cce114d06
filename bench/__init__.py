"""`python -m bench`: what deskgrid measures of itself, on real parts; see docs/measurements.md."""
