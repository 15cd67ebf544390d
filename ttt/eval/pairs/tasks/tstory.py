"""Topic StoryCloze: a story of five sentences, and the same with the ending of any other story.

Laid out as Spoken StoryCloze, see `ttt.eval.pairs.tasks.sstory`.
"""

from ttt.eval.pairs.tasks.sstory import HAS_GOLD as HAS_GOLD
from ttt.eval.pairs.tasks.sstory import candidates as candidates

TITLE = "Topic StoryCloze"
