"""For machines without a network: headwater's own wheel, the packages that it needs elsewhere, and its documentation.

Files in this folder import no array library, so that these commands start at once.
"""
