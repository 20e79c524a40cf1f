"""What needs torch: training the voices."""
