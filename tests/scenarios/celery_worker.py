"""A celery worker, `POOL`, with graceful beside it as the documentation shows it.

1. The worker is ready, and works at a job.
2. It is told to leave: by SIGTERM, by a hook, or by a job (`drain`, on stdin).
3. It fetches no more, the job in hand ends, then the clean-up runs, and the process exits with 0.
"""

import sys
import threading
import time

from celery import Celery
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

import graceful

app = Celery("tasks", broker="memory://")
app.conf.worker_prefetch_multiplier = 1
coordinator = graceful.install(propagation_delay=0, drain_timeout=15)
finished = threading.Event()


@app.task
def job():
    print("job begins", flush=True)
    time.sleep(1)
    print("job ends", flush=True)


@worker_ready.connect
def ready(**_):
    coordinator.ready()
    job.delay()
    threading.Thread(target=obey, daemon=True).start()


@worker_shutting_down.connect
def leave(how, **_):
    coordinator.drain(f"celery's {how.lower()} shutdown")


@coordinator.on_drain
def wait_for_celery():
    finished.wait()


@worker_shutdown.connect
def celery_has_finished(**_):
    print("celery has finished", flush=True)
    finished.set()


@coordinator.on_cleanup
def clean_up():
    print("connection closed", flush=True)


def obey():
    if sys.stdin.readline().strip() == "drain":
        coordinator.drain("a call")


if __name__ == "__main__":
    app.worker_main(
        [
            "worker",
            "--loglevel=INFO",
            "--concurrency=1",
            "--without-gossip",
            "--without-mingle",
            f"--pool={sys.argv[1]}",
        ]
    )
