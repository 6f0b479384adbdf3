"""Square: a black-box search that changes random squares and keeps those that help; it sees logits, never gradients.

A segmenter answers a query with the scores of every pixel, so that many squares can be tried in one query: one in each
cell of a grid that lies elsewhere every time, kept where the loss of its own cell gains. What pixels lose to squares of
other cells shows when the image is measured as it is, in every tenth query. ``spacing=None`` is the published search,
one square per query for the loss of the whole image: weaker by 4 to 5 % of the pixels with a third more queries.

Linf alone: in L2 all squares of an image share one budget and none can be judged by its cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks.base import BoundedAttack, Problem
from segrobust.attacks.margins import measure_margins
from segrobust.attacks.registry import register_attack
from segrobust.attacks.selection import selected
from segrobust.core.draws import Draws
from segrobust.core.threats import per_image

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries: where the squares' area halves
SHARPNESS = 16.0  # of the sigmoid, in median margins
MEASURE_EVERY = 10


@register_attack
class Square(BoundedAttack):
    """Random search over squares (Andriushchenko et al., 2020, arXiv 1912.00049), ported to segmentation.

    The loss of a pixel is the sigmoid of its margin, in units of the image's median margin: a smooth count of wrong
    pixels that no scale of the logits can flatten. An image without a right pixel costs no further queries.

    Args:
        steps: queries, each of one forward.
        first_share: area of the first squares, as a share of the image; halved nine times on the way.
        spacing: side of the cells over that of the squares; None: one cell, the image.
        smallest_cell: side of the cells in pixels, at least; squares that are nearer change each other's pixels.
    """

    steps: int = 1000
    first_share: float = 0.1
    spacing: float | None = 2.0
    smallest_cell: int = 16

    norms: ClassVar[tuple[str, ...]] = ("Linf",)
    paper: ClassVar[str] = "arXiv 1912.00049"
    can_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(steps=1, smallest_cell=1)
        self._numbers("first_share", above=0, up_to=1)
        self._numbers("spacing", least=1)

    def passes(self) -> tuple[int, int]:
        return self.steps, 0

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        search = Search(self, problem)
        if len(search.rows):
            search.measure(self._stripes(search))
        for query in range(1, self.steps):
            if not len(search.rows):
                break
            last = query == self.steps - 1
            if self.spacing is not None and (last or query % MEASURE_EVERY == 0):
                search.measure(search.points)
            else:
                search.try_squares(self.grid(query, search.points.shape[2:]), query)
        return search.best, search.error

    def _stripes(self, search: Search) -> Tensor:
        """Columns of one random sign per channel, on all images that are searched."""
        sign = search.draws.at(0).uniform(3, 1, search.clean.shape[3]).sub_(0.5).sign_()
        return (search.clean + self.eps * sign).clamp_(0, 1)

    def grid(self, query: int, size: torch.Size) -> Grid:
        """Squares and cells of one query on images of ``size`` (height, width)."""
        height, width = size
        halved = sum(query / self.steps > part for part in HALVINGS)
        side = round(math.sqrt(self.first_share * 0.5**halved * height * width))
        side = min(max(side, 1), height, width)
        if self.spacing is None:
            return Grid(side, (height, width), (1, 1), moves=False)
        cell = max(round(self.spacing * side), self.smallest_cell)
        return Grid(side, (cell, cell), tuple((length - 2) // cell + 2 for length in size), moves=True)


class Search:
    """The images of a batch that have right pixels left, and where the search of each one stands.

    rows: ``[M]``, these images among all of the batch.
    points: ``[M, 3, H, W]``, with all squares that were kept.
    loss: ``[M, H, W]``, of every pixel there, as far as the cells tell.
    best, error: ``[N, ...]`` and ``[N]``, the queried images with the most pixels at the goal, and their share.
    """

    def __init__(self, attack: Square, problem: Problem) -> None:
        self.eps, self.best = attack.eps, problem.clean.clone()
        self.error = self.best.new_zeros(len(self.best))
        self.rows = torch.arange(len(self.best), device=self.best.device)
        self.engine, self.clean, self.draws = problem.engine, problem.clean, problem.draws
        self.points, self.loss, self.scale = self.clean, self.clean[:, 0], None
        self._drop(problem.engine.goal.pixels == 0)

    def measure(self, points: Tensor) -> None:
        """Query ``points`` and go on from there."""
        self.points = self.engine.goal.restrict(points, self.clean)
        self.loss = self._query(self.points)
        self._drop(self.error[self.rows] == 1)

    def try_squares(self, grid: Grid, query: int) -> None:
        """Query one square in every cell, and keep those whose cell gains."""
        placed = Placed(grid, self.draws.at(query), self.points)
        tried = (self.clean + self.eps * placed.sign).clamp_(0, 1)
        tried = torch.where(placed.inside.unsqueeze(1), tried, self.points)
        tried = self.engine.goal.restrict(tried, self.clean)
        loss = self._query(tried)
        kept = placed.at_pixels(placed.per_cell(self.loss - loss) > 0)
        self.points = torch.where(kept.unsqueeze(1), tried, self.points)
        self.loss = torch.where(kept, loss, self.loss)
        self._drop(self.error[self.rows] == 1)

    def _query(self, points: Tensor) -> Tensor:
        """Loss of every pixel, ``[M, H, W]``; the points are kept where they are the best so far."""
        margins = measure_margins(self.engine, points)
        error = self.engine.goal.share(margins.reached)
        best, best_error = self.best[self.rows], self.error[self.rows]
        better = error >= best_error
        self.best.index_copy_(0, self.rows, torch.where(per_image(better), points, best))
        self.error.index_copy_(0, self.rows, torch.where(better, error, best_error))
        void, margin = ~self.engine.goal.valid, margins.margin.double()
        if self.scale is None:
            median = margin.abs().masked_fill(void, math.nan).flatten(1).nanmedian(1).values
            self.scale = median.clamp_min(torch.finfo(torch.float32).tiny)
        return (margin * (SHARPNESS / self.scale.view(-1, 1, 1))).sigmoid_().masked_fill_(void, 0)

    def _drop(self, done: Tensor) -> None:
        left = selected(~done)
        if len(left) < len(done):
            self.engine, self.rows, self.clean = self.engine.subset(left), self.rows[left], self.clean[left]
            self.points, self.loss, self.draws = self.points[left], self.loss[left], self.draws.subset(left)
            self.scale = None if self.scale is None else self.scale[left]


@dataclass(frozen=True)
class Grid:
    """``count`` cells (down, across) of ``cell`` pixels with a square of ``side`` pixels in each.

    moves: it starts anywhere up to a cell before the image.
    """

    side: int
    cell: tuple[int, int]
    count: tuple[int, int]
    moves: bool


class Placed:
    """A grid with its squares on each image, from the image's own draws.

    inside: ``[M, H, W]`` bool, pixels in a square.
    sign: ``[M, 3, H, W]``, of the change in the squares: one per square and channel.
    """

    def __init__(self, grid: Grid, draws: Draws, images: Tensor) -> None:
        cells = math.prod(grid.count)
        numbers = draws.uniform(2 + 5 * cells)
        self.grid = grid
        self.shift = [
            (share * side * grid.moves).long() for share, side in zip(numbers[:, :2].unbind(1), grid.cell, strict=True)
        ]
        places = [torch.arange(length, device=images.device) for length in images.shape[2:]]
        down, across = (place + start.unsqueeze(1) for place, start in zip(places, self.shift, strict=True))
        (height, width), columns = grid.cell, grid.count[1]
        self._cell = (down // height * columns).unsqueeze(2) + (across // width).unsqueeze(1)
        shares = numbers[:, 2 : 2 + 2 * cells].view(-1, cells, 2)
        top, left = ((shares[..., n] * (grid.cell[n] - grid.side + 1)).long() for n in range(2))
        below = (down % height).unsqueeze(2) - self.at_pixels(top)
        right = (across % width).unsqueeze(1) - self.at_pixels(left)
        self.inside = (below >= 0) & (below < grid.side) & (right >= 0) & (right < grid.side)
        signs = numbers[:, 2 + 2 * cells :].view(-1, 3, cells).sub(0.5).sign()
        self.sign = torch.stack([self.at_pixels(channel) for channel in signs.unbind(1)], 1)

    def at_pixels(self, values: Tensor) -> Tensor:
        """Values of the cells, ``[M, cells]``, at every pixel of theirs: ``[M, H, W]``."""
        return values.gather(1, self._cell.flatten(1)).view_as(self._cell)

    def per_cell(self, values: Tensor) -> Tensor:
        """Sums ``[M, cells]`` of ``[M, H, W]``; scatter_add would add in any order on a GPU."""
        canvas, (height, width), (down, across) = values, self.grid.cell, self.grid.count
        for axis, length in ((1, down * height), (2, across * width)):
            place = torch.arange(length, device=values.device) - self.shift[axis - 1].unsqueeze(1)
            place = place.unsqueeze(3 - axis)
            size = [length if n == axis else whole for n, whole in enumerate(canvas.shape)]
            inside = (place >= 0) & (place < values.shape[axis])
            nearest = place.clamp(0, values.shape[axis] - 1).expand(size)
            canvas = canvas.gather(axis, nearest).masked_fill_(~inside, 0)
        return canvas.view(-1, down, height, across, width).sum((2, 4)).flatten(1)
