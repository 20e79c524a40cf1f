"""Who says this? A classifier by word frequencies alone (multinomial naive Bayes with add-one smoothing), fixed by the texts that it is fitted on."""

import math
import re
from collections import Counter

WORD = re.compile(r"[a-z']+")


def words(text):
    """Return the words of a text in lower case."""
    return WORD.findall(text.lower())


class WordCounts:
    """Fitted on texts by speaker. Every speaker is as likely as any other before a word is read."""

    def __init__(self, texts):
        self._counts = {
            speaker: Counter(word for text in said for word in words(text))
            for speaker, said in texts.items()
        }
        self._vocabulary = set().union(*self._counts.values())

    def scores(self, text):
        """Return the log probability of the known words of a text, by speaker."""
        known = [word for word in words(text) if word in self._vocabulary]
        return {
            speaker: sum(
                math.log((counts[word] + 1) / (counts.total() + len(self._vocabulary)))
                for word in known
            )
            for speaker, counts in self._counts.items()
        }

    def who(self, text):
        """Return the likeliest speaker, or None where no word is known."""
        scores = self.scores(text)
        return max(scores, key=scores.__getitem__) if any(scores.values()) else None
