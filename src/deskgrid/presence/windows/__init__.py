"""The owner of a Windows desktop, from what Windows tells a window."""
