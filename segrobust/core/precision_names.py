"""The names of what products of numbers can be computed in, for readers that import no torch."""

FLOAT32, TF32 = "float32", "tf32"
HALF = ("bf16", "fp16")
PRECISIONS = (FLOAT32, TF32, *HALF)
