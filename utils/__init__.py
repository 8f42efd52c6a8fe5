"""The shared package of the course. Importing it loads nothing heavy: each module imports what it needs."""
import warnings

# Progress bars are plain text here; without ipywidgets a library would complain about that in the first cell.
warnings.filterwarnings("ignore", message="IProgress not found")
