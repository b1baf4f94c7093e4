"""Encoder and head trained together; what comes out is an encoder again."""
