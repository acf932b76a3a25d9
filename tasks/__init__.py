"""The road, room by room: read, decide, write, tell; and the policy that decides go by."""
