"""Topic StoryCloze: a story of five sentences, and the same with the ending of any other story.

Laid out as Spoken StoryCloze, see `ttt.eval.tasks.sstory`.
"""

from ttt.eval.tasks.sstory import HAS_GOLD as HAS_GOLD
from ttt.eval.tasks.sstory import candidates as candidates

TITLE = "Topic StoryCloze"
