from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import agent

from fuzz.checks.agents import check_worker_messages
from fuzz.seeds import worker_scripts

MESSAGES = st.builds(
    lambda which, body: bytes([which | 5 << 1]) + len(body).to_bytes(2, "big") + body,
    st.integers(0, 1),
    st.one_of(
        st.binary(max_size=30),
        st.builds(
            lambda kind, fields: agent.WorkerMessage(**{kind: fields}).SerializeToString(),
            st.sampled_from([field.name for field in agent.WorkerMessage.DESCRIPTOR.fields]),
            st.just({}),
        ),
    ),
)
STEPS = st.lists(st.integers(0, 15) | st.integers(0, 255), max_size=40).map(bytes)


@settings(deadline=None, max_examples=100)
@given(st.lists(STEPS | MESSAGES | st.sampled_from(worker_scripts()), max_size=10).map(b"".join))
def test_jobs_live_through_any_script(data: bytes) -> None:
    check_worker_messages(data)
