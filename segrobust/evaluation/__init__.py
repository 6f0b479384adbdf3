"""From images and attacks to rows of integers, and from rows to every number that is reported."""
