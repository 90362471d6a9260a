"""Results as self-contained HTML pages: a recommendation, a run, two runs side by side."""

from autoscale.show.pages.recommendation_page import recommendation_page
from autoscale.show.pages.run_page import run_page

__all__ = ["recommendation_page", "run_page"]
