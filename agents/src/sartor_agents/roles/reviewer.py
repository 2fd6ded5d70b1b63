"""The reviewer's process: a model reads the candidate's source. It can write and run nothing."""

import sys

from sartor_agents.backends.openai import OpenAIBackend
from sartor_agents.backends.protocol import BackendError
from sartor_agents.roles.messages import ReviewRequest, ReviewResponse
from sartor_agents.roles.process import failure, leave, serve


def answer(request: ReviewRequest) -> ReviewResponse:
    backend = OpenAIBackend()
    try:
        made = backend.review(request.context)
    except BackendError as error:
        return ReviewResponse(failure=failure("review", error, candidate_allowed=True), usage=backend.usage())
    return ReviewResponse(review=made, usage=backend.usage())


if __name__ == "__main__":
    leave(serve(sys.argv[1:], ReviewRequest, answer))
