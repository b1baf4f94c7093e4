"""Choose, fit, judge: an experiment from its options to a run."""
