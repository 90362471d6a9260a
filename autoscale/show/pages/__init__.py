"""Results as self-contained HTML pages: a recommendation, a run, two runs side by side, a check."""

from autoscale.show.pages.check_page import check_page
from autoscale.show.pages.recommendation_page import recommendation_page
from autoscale.show.pages.run_page import run_page

__all__ = ["check_page", "recommendation_page", "run_page"]
