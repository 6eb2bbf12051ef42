"""The views of a test image whose predictions are averaged."""

from typing import Literal

ImageViews = Literal["plain", "mirror", "six"]
"""The views of an image whose predictions are averaged.

"plain" is the image alone, and "mirror" adds its mirror image; their probabilities are averaged.
"six" are both of these, and both shifted by a pixel up and left, and down and right.  Their class
scores are averaged, with half of the weight on the unshifted ones (Jordan 2024).
"""
