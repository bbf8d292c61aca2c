"""The packet path: receivers, forwarding, layers, bandwidth, speakers. Sans-IO: time and bytes are passed in."""
