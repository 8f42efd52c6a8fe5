"""What each exercise asks for, as its solution notebook writes it: derived modules, never edited by hand.

`python -m utils.authoring` takes it from the exercise cells of `solutions/`; `check` hands it to a student who goes on
without an answer. May import: what a notebook may.
"""
