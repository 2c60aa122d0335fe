"""Studies: methods, seeds and data sets under one budget, and what they show."""
