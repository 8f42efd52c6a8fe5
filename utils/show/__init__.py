"""What readers look at: figures with alternative text, and interactive maps.

May import: everything but checks, authoring and training.
"""
from ..errors import check_arguments
from .plots import show
from .published import compare

check_arguments(globals())
