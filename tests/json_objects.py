"""JSON objects one after the other, as programs for gRPC print a stream of answers."""

import json


def objects(text: str) -> list[dict]:
    """Return the JSON objects that stand one after the other in a text."""
    found, decoder, place = [], json.JSONDecoder(), 0
    while place < len(text.rstrip()):
        value, place = decoder.raw_decode(text, place)
        found.append(value)
        while place < len(text) and text[place].isspace():
            place += 1
    return found
