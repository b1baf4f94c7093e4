"""
Study: patients that straddle a split, on glands and lungs
==========================================================

Images of one patient, or tiles cut from one source, look alike. If some are trained on and others tested, a model can
recognise the patient instead of the disease. The same probe is tested twice: in folds that keep patients whole, and in
folds that do not.
"""
