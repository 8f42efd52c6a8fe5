"""What is said to a reader who made a mistake: one sentence, with what was expected or the nearest valid choice.

May import: nothing of the house.
"""
from .arguments import check_arguments, checked
from .names import CourseError, closest, is_mask, nearest, require_known, several, warn, whole_number, whole_numbers
