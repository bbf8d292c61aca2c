"""WHIP and WHEP: publishing (RFC 9725) and watching (draft-ietf-wish-whep) with nothing but HTTP requests."""
