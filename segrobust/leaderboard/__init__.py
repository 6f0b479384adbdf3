"""The leaderboard: entries that are computed from the rows of runs, and the page that shows them."""

from segrobust.leaderboard.board import Board

__all__ = ["Board"]
