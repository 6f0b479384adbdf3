"""What is done to images before the model answers, and the rows that come of it."""
