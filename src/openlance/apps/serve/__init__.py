"""One model for many users: an OpenAI-compatible HTTP API and a web page over one engine.

    HTTP / page ──► admission (what fits, who is next) ──► worker (one thread, one engine) ──► results
                                                            └► schedule (which requests take this step)

`settings` limits; `footprint` what a request costs; `admission` the queue; `schedule` fair steps; `worker` the thread; `jobs` and `videos`
work that outlives a connection, `life` and `folder` what several processes need to share it; `chat`, `images` the other endpoints; `media`
and `remote_media` pictures and clips from outside; `guard` and `connections` what keeps the door; `app` puts it together; `web` the page;
`cluster` the same in replicas.
"""
