"""Who is asking and what may they do: the htpasswd file (`htpasswd`) and the decision a request (`access`).

Knows credentials and rights; knows no HTTP beyond the Authorization header and its challenge, no repository's content.
"""
