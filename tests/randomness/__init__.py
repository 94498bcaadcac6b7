"""Statistical checks of noise and samples, the planted bugs that they reject, and the records they leave.

Checks (`noise.py`, `samples.py`, `words.py`) are functions of a noise source or a sampler, so that the library
(`sources.py`), planted bugs (`twins.py`) and other libraries (`compare.py`) all go through the same code. The quick
tier is `tests/test_randomness.py`; the long one is this package itself: `cd tests && python -m randomness`.
"""
