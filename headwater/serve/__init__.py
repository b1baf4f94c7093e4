"""The page of similar cases: a store and runs behind HTTP, for people in a browser and for programs."""
