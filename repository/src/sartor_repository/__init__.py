"""The repositories of runs, over git's smart HTTP, each role with exactly the authority that its step has.

Where to look: `policy` says who may read and push what (pure), `hook` enforces it within git, `auth` turns a service
account's token into who is calling, `store` keeps the repositories on the volume, `service` and `backend` are the HTTP side.
"""
