"""Session descriptions and the offer/answer core (RFC 8866, RFC 8829), with LiveKit's rules; sans-IO.

From text to rules: `scan` reads single fields; `codecs`, `extmap`, `streams` and `directions` are the values that a
section is made of; `media` is a section and `wire` a whole description, each the inverse of its writer. `policy` holds
LiveKit's tables, `transport` what all sections share, `sections` the state of one; `incoming` reads what a client
sends, `descriptions` writes our side, and `negotiation` decides which track is where.
"""
