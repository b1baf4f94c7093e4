"""Training of encoder and head together; the result is an encoder again."""
