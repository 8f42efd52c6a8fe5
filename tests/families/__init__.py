"""Every capability on a small random model of every family, as a bridge and as it is, against hand-written hooks.

`cases` holds what is compared, `table` runs it and writes docs/families.md (`python -m tests.families`), `allowed` says
what may be refused, and why.
"""
