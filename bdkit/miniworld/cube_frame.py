"""Where the cube of a cube shaped subject stands, in subject coordinates."""

from collections.abc import Callable

from bdkit.miniworld.pen import Pen
from bdkit.miniworld.subjects import Subject

# draws what is behind, or in front of, the cube: (pen, subject, bend)
Part = Callable[[Pen, Subject, float], None]

SIDE = 0.64
LEFT, RIGHT = -0.42, -0.42 + SIDE
# from the front face's corners to the back face's
DX, DY = 0.2, -0.17
TOP = -SIDE
MIDDLE = (LEFT + RIGHT) / 2
# the middle of the top face
ROOF_X, ROOF = MIDDLE + DX / 2, TOP + DY / 2
