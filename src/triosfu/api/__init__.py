"""The server API: what an application's backend asks of the rooms, over Twirp."""
