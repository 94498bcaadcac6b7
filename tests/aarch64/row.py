"""A row of the table: an operation's instructions a logit on NEON, and over those counted on AVX2."""

import json
import sys
from pathlib import Path

operation, instructions = sys.argv[1], int(sys.argv[2]) / (512 * 1024)
table = json.loads((Path(__file__).parents[2] / "benchmarks" / "instructions.json").read_text())
on_avx2 = table["per_logit"][operation]
print(f"{operation:10} {instructions:6.2f} a logit on NEON, {instructions / on_avx2:.2f} times AVX2's {on_avx2}")
