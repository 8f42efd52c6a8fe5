"""The recipe of each shipped model, with its corpus, its measurements and its card; `python -m utils.training.NAME` trains it.

May import: everything but checks and authoring.
"""
