"""Models: encoders, the two-sided model and what of it is trained."""
