"""What happens to an event: plain synchronous code, a batch in and a batch out.

Each stage owns one section of the state and reads no other's. Time and seeds arrive as data.
"""
