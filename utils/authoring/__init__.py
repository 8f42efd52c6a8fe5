"""Derives course/*.ipynb, which students open, from solutions/*.ipynb, which authors write.

    python -m utils.authoring                        build course/
    python -m utils.authoring --check                report what is out of step or against the rules
    python -m utils.authoring --execute [NAME ...]   run solution notebooks and store their outputs, then build

The rules for authors stand in CONTRIBUTING.md. May import: all but checks and training.
"""
