"""For machines without a network: headwater's own wheel, the packages that it needs elsewhere, and its documentation.

Files in this folder import no array library: they run before anything is installed, so to speak.
"""
